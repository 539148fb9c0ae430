"""`genarm evaluate`: the options, and nothing heavy until a command runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import compare_options, gap_options, sweep_options
from . import options as given
from . import pair_options as pairs

app = typer.Typer(name="evaluate", help="Say how good reward models are.")

Base = Annotated[str | None, typer.Option(help="Folder or hub id of the base model.", show_default="the embedded base")]
Reward = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=PATH",
        help="An autoregressive reward model, repeatable; or an embedded one by its name (art, science, "
        "agreeableness, risk).",
    ),
]
MaxLength = Annotated[
    int | None,
    typer.Option(
        min=1, help="The most tokens of prompt and response together.", show_default="as many as the base has positions"
    ),
]
BatchSize = Annotated[int, typer.Option(min=1, help="Pairs scored at once.")]
Dtype = Annotated[str, typer.Option(help="auto (float32 where it fits), bfloat16, float16 or float32.")]
Device = Annotated[str, typer.Option(help="auto, cpu, cuda or cuda:N.")]
TrustRemoteCode = Annotated[
    bool, typer.Option("--trust-remote-code", help="Run Python code that a model's repository brings along.")
]


@app.callback(invoke_without_command=True)
def group(context: typer.Context) -> None:
    """Say how good reward models are."""
    if context.invoked_subcommand is None:
        typer.echo(context.get_help())


@app.command()
def accuracy(
    data: Annotated[
        list[str],
        typer.Option(
            metavar="NAME=FILE",
            help="Preference pairs (prompt, chosen, rejected): JSONL, Parquet, or a data set; repeatable. NAME= may be "
            "left out.",
        ),
    ],
    base: Base = None,
    reward: Reward = None,
    trajectory_rm: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A trajectory reward model, a scorer of whole responses; repeatable."),
    ] = None,
    dpo: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME=PATH", help="A DPO policy, scored by its implicit reward; repeatable."),
    ] = None,
    reward_base: given.RewardBase = None,
    where: pairs.Where = None,
    map: pairs.Map = None,
    prompt_column: pairs.PromptColumn = None,
    prompt_template: pairs.PromptTemplate = None,
    chat: pairs.AsChat = False,
    response_marker: pairs.ResponseMarker = None,
    preference: pairs.Preference = None,
    skip_bad_rows: pairs.SkipBadRows = False,
    by: Annotated[
        str | None, typer.Option(metavar="COLUMN", help="Show accuracy for each value of a column, too.")
    ] = None,
    cluster: Annotated[
        str | None,
        typer.Option(
            metavar="COLUMN|prompt|chosen|none",
            help="What the pairs have in common that are resampled together for the intervals.",
            show_default="the prompt; where it is empty, the chosen response",
        ),
    ] = None,
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use this many pairs of each file, from its beginning.")
    ] = None,
    max_length: MaxLength = None,
    batch_size: BatchSize = 64,
    dtype: Dtype = "auto",
    device: Device = "auto",
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="Where the figures go as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Where the figures go as a picture (png, svg, pdf).")
    ] = None,
    trust_remote_code: TrustRemoteCode = False,
) -> int:
    """How often reward models order preference pairs right, with intervals, beside what length alone would get.

    An autoregressive reward model and a DPO policy are scored by the sum over response tokens, which is what they are
    trained and decoded by, and by the mean per token beside it.
    """
    from rich.console import Console

    from ..preferences.reading import pair_reading
    from . import evaluate_accuracy

    options = evaluate_accuracy.AccuracyOptions(
        base=base,
        data=data,
        where=where or (),
        reading=pair_reading(
            map or (), prompt_column, prompt_template, chat, response_marker, preference, skip_bad_rows
        ),
        rewards=reward or (),
        reward_bases=reward_base or (),
        trajectory_rms=trajectory_rm or (),
        dpos=dpo or (),
        by=by,
        cluster=cluster,
        limit=limit,
        max_length=max_length,
        batch_size=batch_size,
        dtype=dtype,
        device=device,
        output=json,
        plot=plot,
        trust_remote_code=trust_remote_code,
    )
    return evaluate_accuracy.run(options, Console())


@app.command()
def rewards(
    output: Annotated[Path, typer.Option(metavar="FILE", help="Where the page goes (HTML).")],
    base: Base = None,
    reward: Reward = None,
    data: Annotated[str | None, typer.Option(metavar="FILE", help="Preference pairs.")] = None,
    reward_base: given.RewardBase = None,
    where: pairs.Where = None,
    map: pairs.Map = None,
    prompt_column: pairs.PromptColumn = None,
    prompt_template: pairs.PromptTemplate = None,
    chat: pairs.AsChat = False,
    response_marker: pairs.ResponseMarker = None,
    preference: pairs.Preference = None,
    skip_bad_rows: pairs.SkipBadRows = False,
    limit: Annotated[int, typer.Option(min=1, help="Show this many pairs, from the beginning of the file.")] = 20,
    prompt: Annotated[str, typer.Option(metavar="TEXT", help="A prompt, with --chosen and --rejected.")] = "",
    chosen: Annotated[str | None, typer.Option(metavar="TEXT", help="A response, in place of --data.")] = None,
    rejected: Annotated[str | None, typer.Option(metavar="TEXT", help="The response it is compared with.")] = None,
    max_length: MaxLength = None,
    dtype: Dtype = "auto",
    device: Device = "auto",
    trust_remote_code: TrustRemoteCode = False,
) -> int:
    """A page of token rewards: chosen and rejected side by side, coloured by log π_r − log π_base."""
    from rich.console import Console

    from ..preferences.reading import pair_reading
    from . import evaluate_rewards

    options = evaluate_rewards.RewardsOptions(
        output=output,
        base=base,
        rewards=reward or (),
        reward_bases=reward_base or (),
        data=data,
        where=where or (),
        reading=pair_reading(
            map or (), prompt_column, prompt_template, chat, response_marker, preference, skip_bad_rows
        ),
        limit=limit,
        prompt=prompt,
        chosen=chosen,
        rejected=rejected,
        max_length=max_length,
        dtype=dtype,
        device=device,
        trust_remote_code=trust_remote_code,
    )
    return evaluate_rewards.run(options, Console())


app.command()(sweep_options.pareto)
app.command()(gap_options.gap)
app.command()(compare_options.compare)
