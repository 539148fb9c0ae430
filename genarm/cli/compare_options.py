"""`genarm evaluate compare`: its options, and nothing heavy until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as given

JUDGE = "A language model as a judge"


def compare(
    config: Annotated[
        Path,
        typer.Option(metavar="FILE", help="A TOML file: base, prompts, the judge RM, methods with their settings."),
    ],
    output: Annotated[
        Path,
        typer.Option(metavar="FOLDER", help="Where answers, figures and pictures go; a run that was stopped resumes."),
    ],
    limit: Annotated[
        int | None, typer.Option(min=1, help="Use this many prompts, from the beginning of the file.")
    ] = None,
    method: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Only these of the file's methods; repeatable.", show_default="all"),
    ] = None,
    judge: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            rich_help_panel=JUDGE,
            help="An OpenAI-compatible endpoint (https://HOST/v1) that says which answer is better, each method's or "
            "the reference's, asked in both orders.",
        ),
    ] = None,
    judge_model: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", rich_help_panel=JUDGE, help="A model of that endpoint; repeatable."),
    ] = None,
    judge_key: Annotated[
        str | None,
        typer.Option(
            metavar="VARIABLE", rich_help_panel=JUDGE, help="The environment variable that holds the endpoint's key."
        ),
    ] = None,
    judge_workers: Annotated[int, typer.Option(min=1, rich_help_panel=JUDGE, help="Questions asked at once.")] = 4,
    judge_timeout: Annotated[
        float, typer.Option(min=0.1, rich_help_panel=JUDGE, help="Seconds to wait for one reply.")
    ] = 60.0,
    engine: Annotated[
        str, typer.Option(help="auto, eager or hf, for all methods; under auto only some of them have CUDA graphs.")
    ] = "eager",
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Start over, whatever the folder holds.")] = False,
    retry_failed: Annotated[bool, typer.Option("--retry-failed", help="Decode the rows that failed again.")] = False,
    trust_remote_code: given.RemoteCode = False,
) -> int:
    """Methods side by side: the same base and prompts, a judge that none of them uses, their costs.

    Writes the answers, compare.json, compare.md, compare.png, trade-offs.png, and the answers as AlpacaEval reads them.
    """
    from rich.console import Console

    from . import evaluate_compare

    options = evaluate_compare.CompareOptions(
        config=config,
        output=output,
        limit=limit,
        methods=tuple(method or ()),
        judge=judge,
        judge_models=tuple(judge_model or ()),
        judge_key=judge_key,
        judge_workers=judge_workers,
        judge_timeout=judge_timeout,
        engine=engine,
        dtype=dtype,
        device=device,
        overwrite=overwrite,
        retry_failed=retry_failed,
        trust_remote_code=trust_remote_code,
    )
    return evaluate_compare.run(options, Console())
