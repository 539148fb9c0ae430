"""The `genarm` command. Each command imports what it needs when it runs, so that --help answers at once."""

from __future__ import annotations

import os
import signal
import sys
import warnings
from pathlib import Path
from typing import Annotated

import typer

from .. import __version__
from ..errors import GenARMError, InvalidArgumentError
from . import evaluate as evaluation
from . import options as given
from . import play as playing
from . import train as training
from . import writing

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


app.command()(writing.generate)
app.command()(writing.chat)
app.command()(playing.play)


@app.command()
def bench(
    base: given.Base = None,
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
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    trace: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A trace of one guided call, for chrome://tracing or Perfetto.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The figures as JSON.")] = None,
    trust_remote_code: given.RemoteCode = False,
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
def serve(
    arguments: Annotated[
        list[str] | None,
        typer.Argument(metavar="[-- VLLM_ARGUMENTS]", help="What follows -- goes to vLLM's server as it is."),
    ] = None,
    base: given.Base = None,
    reward: given.Reward = None,
    reward_base: given.RewardBase = None,
    beta: given.Beta = 1.0,
    base_weight: given.BaseWeight = 1.0,
    host: Annotated[str, typer.Option(help="The address to listen on; 0.0.0.0 is every network.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=1, max=65535, help="The port to listen on.")] = 8000,
    name: Annotated[
        str | None,
        typer.Option(help="The model's name in requests.", show_default="of the base and the reward models"),
    ] = None,
) -> int:
    """Serve guided decoding over HTTP with vLLM: its OpenAI-compatible server, weights per request.

    The weights given here are those of requests that name none.
    """
    from . import serve as server

    server.run(
        server.ServeOptions(base, reward or (), reward_base or (), beta, base_weight, host, port, name, arguments or ())
    )


@app.command()
def methods(
    name: Annotated[str | None, typer.Argument(metavar="NAME", help="One of them, with its equation.")] = None,
) -> int:
    """List the decoding methods for --method, with their settings (a name without a value has to be given)."""
    from rich.console import Console

    from . import methods as known

    return known.show(name, Console())


@app.command()
def info(
    base: given.Base = None,
    reward: given.Reward = None,
    reward_base: given.RewardBase = None,
    objectives: given.Objectives = None,
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    trust_remote_code: given.RemoteCode = False,
    as_json: Annotated[bool, typer.Option("--json", help="Print one JSON object.")] = False,
) -> int:
    """Show versions, devices, and which backends are in use and why.

    With --base or --reward, load those models and say which base each reward model runs on and what decodes it.
    """
    import json

    from rich.console import Console

    from . import info as installation

    models = given.ModelOptions(
        base=base,
        rewards=reward or (),
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
        reward_bases=reward_base or (),
        objectives=objectives or (),
    )
    found = installation.collect(models if base or reward or reward_base else None)
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
    device: given.Device = "auto",
) -> int:
    """Guide a small embedded model with four reward models and show what they do. Takes a minute or two on a CPU."""
    from transformers.utils import logging

    from .demo import run_demo

    logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    run_demo(output, seed, device)
    return 0


app.command()(training.train)
app.add_typer(evaluation.app)


class Terminated(KeyboardInterrupt):
    """The process was asked to end by SIGTERM, as batch systems do: finished rows are kept as after Ctrl-C."""

    status = 143


def main(arguments: list[str] | None = None) -> int:
    """Run a command line; its exit status. What goes wrong on purpose is one line on the standard error."""
    # Before torch is imported: OpenMP threads spin long at barriers, which on a busy CPU makes small models
    # far slower. A shorter spin costs an idle one little (docs/cpu.md).
    if "OMP_WAIT_POLICY" not in os.environ:
        os.environ.setdefault("GOMP_SPINCOUNT", "5000")
    if arguments is None:  # this process is the command's own
        signal.signal(signal.SIGTERM, _terminate)
        for stream in (sys.stdout, sys.stderr):
            stream.reconfigure(errors="replace")  # type: ignore[union-attr]  # letters that a terminal does not have
    with warnings.catch_warnings():
        warnings.showwarning = _show_warning  # type: ignore[assignment]
        try:
            line = sys.argv[1:] if arguments is None else arguments
            return app(line or ["--help"], prog_name="genarm", standalone_mode=False) or 0
        except UsageError as error:
            return _fail(error.format_message(), 2)  # type: ignore[attr-defined]
        except GenARMError as error:
            return _fail(str(error), 2 if isinstance(error, InvalidArgumentError) else 1)
        except (KeyboardInterrupt, typer.Abort) as error:
            return Terminated.status if isinstance(error.__context__, Terminated) else 130
        except SystemExit as error:  # of typer, where whoever read has enough, as head has
            if not isinstance(error.__context__, BrokenPipeError):
                raise
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
            return 141
        except OSError as error:  # a full disk, say, or a device that went away
            return _fail(f"{error.filename or 'the output'}: {error.strerror}: make room or choose another place", 1)


def _terminate(*_: object) -> None:
    raise Terminated


def _fail(text: str, status: int) -> int:
    sys.stderr.write(f"genarm: error: {' '.join(text.split())}\n")
    return status


def _show_warning(message: Warning | str, *_: object) -> None:
    sys.stderr.write(f"genarm: warning: {' '.join(str(message).split())}\n")
