"""The `genarm` command. Each command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import os
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from .. import __version__
from ..errors import GenARMError, InvalidArgumentError
from . import evaluate as evaluation
from . import train as training

UsageError: type[Exception] = typer.BadParameter.__mro__[1]  # typer ships click under more than one name

app = typer.Typer(
    name="genarm",
    help="Reward-guided decoding: a base model, small reward models, weights chosen per request.",
    rich_markup_mode="markdown",
    context_settings={"help_option_names": ["-h", "--help"]},
    pretty_exceptions_enable=False,
)


def _show_version(wanted: bool) -> None:
    if wanted:
        sys.stdout.write(f"genarm {__version__}\n")
        raise typer.Exit


@app.callback()
def root(
    version: Annotated[
        bool, typer.Option("--version", is_eager=True, callback=_show_version, help="Print the version and exit.")
    ] = False,
) -> None:
    """Reward-guided decoding: a base model, small reward models, weights chosen per request."""


@app.command()
def generate(
    base: Annotated[
        str | None, typer.Option(help="Folder or hub id of the base model.", show_default="the embedded base")
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH:WEIGHT",
            help="A reward model and its weight (default 1), repeatable; or an embedded one (art, science, "
            "agreeableness, risk) as NAME:WEIGHT; or a folder of genarm train as PATH:WEIGHT.",
        ),
    ] = None,
    beta: Annotated[float, typer.Option(help="What all reward weights are divided by.")] = 1.0,
    base_weight: Annotated[float, typer.Option(help="The base model's own weight.")] = 1.0,
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="A prompt, repeatable.")] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts: one per line (a blank line is an empty prompt, which fails), or JSONL rows {id?, prompt, "
            "weights?}; plain or gzip.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="JSONL, one row per prompt. A run that was stopped resumes; rows that failed stay failed.",
        ),
    ] = None,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="The most new tokens per prompt.")] = 128,
    temperature: Annotated[float, typer.Option(min=0, help="0 is greedy.")] = 1.0,
    top_k: Annotated[int, typer.Option(min=0, help="Only the k most likely tokens; 0 is off.")] = 0,
    top_p: Annotated[float, typer.Option(help="Only the most likely tokens that make up this mass; 1 is off.")] = 1.0,
    min_p: Annotated[float, typer.Option(help="Only tokens this likely relative to the likeliest; 0 is off.")] = 0.0,
    seed: Annotated[int, typer.Option(help="The draws of a row depend on it and on the row's line alone.")] = 0,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts decoded at once.")] = 8,
    max_length: Annotated[int, typer.Option(min=1, help="The most tokens of prompt and continuation together.")] = 4096,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    chat: Annotated[bool, typer.Option(help="Put each prompt into the chat template as a user's turn.")] = False,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace an output made with other settings.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that a model's repository brings along.")
    ] = False,
) -> int:
    """Generate text for one prompt or for a file of them.

    Each row of the output holds id, prompt, text, weights, token_count, logprob_sums (a model's log-probability of the
    generated tokens, by model) and finish_reason; a row that failed holds id, prompt and error. The exit status is 1
    when a row failed.
    """
    from . import generate

    decoding: dict[str, Any] = {
        "beta": beta,
        "base_weight": base_weight,
        "max_new_tokens": max_new_tokens,
        "temperature": temperature,
        "top_k": top_k,
        "top_p": top_p,
        "min_p": min_p,
    }
    options = generate.GenerateOptions(
        base=base,
        rewards=reward or (),
        prompts=prompt or (),
        input=input,
        output=output,
        decoding=decoding,
        seed=seed,
        batch_size=batch_size,
        max_length=max_length,
        dtype=dtype,
        device=device,
        chat=chat,
        overwrite=overwrite,
        trust_remote_code=trust_remote_code,
    )
    return generate.generate(options)


@app.command()
def bench(
    base: Annotated[
        str | None, typer.Option(help="Folder or hub id of the base model.", show_default="the embedded base")
    ] = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH", help="A reward model, repeatable; or an embedded one by its name (art, science, ...)."
        ),
    ] = None,
    batch_size: Annotated[int, typer.Option(min=1, help="Prompts decoded at once.")] = 1,
    context: Annotated[int, typer.Option(min=1, help="The tokens of each prompt, which are random.")] = 256,
    new_tokens: Annotated[int, typer.Option(min=2, help="New tokens per prompt.")] = 33,
    rounds: Annotated[int, typer.Option(min=1, help="How often each way of decoding is measured, in turn.")] = 5,
    dtype: Annotated[str, typer.Option(help="auto, bfloat16, float16 or float32.")] = "auto",
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A trace of one guided call, for chrome://tracing or Perfetto.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The figures as JSON.")] = None,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that a model's repository brings along.")
    ] = False,
) -> int:
    """Measure what guidance costs here: plain against guided decoding with the same base, in turn.

    Steps are timed whole, apart from the pass over the prompt. A ratio is the median of the ratios of all rounds.
    """
    from rich.console import Console

    from . import bench

    options = bench.BenchOptions(
        base=base,
        rewards=reward or (),
        batch_size=batch_size,
        context=context,
        new_tokens=new_tokens,
        rounds=rounds,
        dtype=dtype,
        device=device,
        trace=trace,
        output=json,
        trust_remote_code=trust_remote_code,
    )
    return bench.run(options, Console())


@app.command()
def info(
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show versions, devices, and which backends are in use and why."""
    import json

    from rich.console import Console

    from . import info as installation

    found = installation.collect()
    if as_json:
        sys.stdout.write(json.dumps(found.as_dict(), indent=1) + "\n")
    else:
        installation.show(found, Console())
    return 0


@app.command()
def demo(
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the page, the plot and the figures go.")] = Path(
        "genarm-demo"
    ),
    seed: Annotated[int, typer.Option(help="The seed of the texts.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")] = "auto",
) -> int:
    """Guide a small embedded model with four reward models and show what they do. Takes a minute or two on a CPU."""
    from transformers.utils import logging

    from .demo import run_demo

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    run_demo(output, seed, device)
    return 0


app.command()(training.train)
app.add_typer(evaluation.app)


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; its exit status. What goes wrong on purpose is one line on the standard error."""
    # Before torch is imported: OpenMP threads spin long at barriers, which on a busy CPU makes small models
    # far slower. A shorter spin costs an idle one little (docs/cpu.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            given = sys.argv[1:] if arguments is None else arguments
            return app(given or ["--help"], prog_name="genarm", standalone_mode=False) or 0
        except UsageError as error:
            return _fail(error.format_message(), 2)  # type: ignore[attr-defined]
        except GenARMError as error:
            return _fail(str(error), 2 if isinstance(error, InvalidArgumentError) else 1)
        except (KeyboardInterrupt, typer.Abort):
            return 130
        except OSError as error:  # a full disk, say, or a device that went away
            return _fail(f"{error.filename or 'the output'}: {error.strerror}: make room or choose another place", 1)


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"genarm: error: {' '.join(text.split())}\n")
    return status


def _show_warning(message: Warning | str, *_: object) -> None:
    sys.stderr.write(f"genarm: warning: {' '.join(str(message).split())}\n")
