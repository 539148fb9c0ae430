"""Options of `genarm evaluate pareto`; nothing heavy until it runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from . import options as given
from .options import GenerateOptions, ModelOptions, check_text, decoding

SWEEP = "The sweep"


class Reduced(StrEnum):
    """How log π_r of a text's tokens becomes a score."""

    MEAN = "mean"
    SUM = "sum"


def pareto(
    text: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="What to go on from; several are several prompts.")
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts, in any form that genarm generate --input reads."),
    ] = None,
    base: given.Base = None,
    reward: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            rich_help_panel=given.MODELS,
            help="A reward model, one per objective, twice or more; or an embedded one by its name (art, science, "
            "agreeableness, risk).",
        ),
    ] = None,
    preference: given.Preference = None,
    grid: Annotated[
        str, typer.Option(metavar="W,W,...", rich_help_panel=SWEEP, help="Weights of each objective, all combined.")
    ] = "0,0.25,0.5,0.75,1",
    steps: Annotated[
        int | None,
        typer.Option(
            metavar="N", rich_help_panel=SWEEP, min=1, help="Instead: weights 0, 1/N, ..., 1 that add up to 1."
        ),
    ] = None,
    samples: Annotated[
        int,
        typer.Option("-n", "--samples", metavar="N", rich_help_panel=SWEEP, min=1, help="Texts per prompt and cell."),
    ] = 1,
    soup: Annotated[
        bool,
        typer.Option(
            "--soup",
            rich_help_panel=SWEEP,
            help="Beside each cell, its rewarded soup: the reward models' adapters averaged into one.",
        ),
    ] = False,
    dpo: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            rich_help_panel=SWEEP,
            help="A fine-tuned policy, a LoRA adapter on the base, repeatable: their averages, decoded unguided.",
        ),
    ] = None,
    soup_steps: Annotated[
        int, typer.Option(metavar="N", rich_help_panel=SWEEP, min=1, help="Policies are averaged by shares of 1/N.")
    ] = 4,
    trajectory_rm: Annotated[
        list[str] | None,
        typer.Option(
            metavar="NAME=PATH",
            rich_help_panel=SWEEP,
            help="A trajectory reward model that scores the objective NAME in the place of its own reward model.",
        ),
    ] = None,
    score: Annotated[
        Reduced,
        typer.Option(rich_help_panel=SWEEP, help="A reward model's score of a text: log π per token, or its sum."),
    ] = Reduced.MEAN,
    reference: Annotated[
        str | None,
        typer.Option(
            metavar="X,X,...",
            rich_help_panel=SWEEP,
            help="The point that hypervolumes reach down to, one number per objective.",
            show_default="a tenth of the range below the worst cell",
        ),
    ] = None,
    output: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The texts as JSONL. A run that was stopped resumes.")
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The figures as JSON.")] = None,
    plot: Annotated[Path | None, typer.Option(metavar="FILE", help="A picture of the front (png, svg, pdf).")] = None,
    beta: given.Beta = 1.0,
    max_new_tokens: given.MaxNewTokens = 128,
    temperature: given.Temperature = 1.0,
    top_k: given.TopK = 0,
    top_p: given.TopP = 1.0,
    min_p: given.MinP = 0.0,
    base_top_p: given.BaseTopP = 1.0,
    base_min_p: given.BaseMinP = 0.0,
    repetition_penalty: given.RepetitionPenalty = 1.0,
    stop: given.Stop = None,
    seed: given.Seed = 0,
    chat: given.Chat = False,
    system: given.System = None,
    retry_failed: given.RetryFailed = False,
    overwrite: given.Overwrite = False,
    batch_size: Annotated[
        int | None,
        typer.Option(
            metavar="N",
            rich_help_panel=given.MODELS,
            min=1,
            help="Texts written at once.",
            show_default="all of a prompt, and of further ones up to 64",
        ),
    ] = None,
    max_length: given.MaxLength = 4096,
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    trust_remote_code: given.RemoteCode = False,
    reward_base: given.RewardBase = None,
    check_vocabulary: given.CheckVocabulary = True,
    objectives: given.Objectives = None,
) -> int:
    """What several objectives cost one another: every combination of weights decoded as one batch, with its front.

    Each prompt is read once for all weights. The table has each cell's scores, its KL to the base and whether another
    cell is better in everything, and the hypervolume of the guided cells beside that of each objective alone and of
    rewarded soups.
    """
    from rich.console import Console

    from . import evaluate_pareto

    check_text("--system", system)
    models = ModelOptions(
        base,
        reward or (),
        batch_size or 0,
        max_length,
        dtype,
        device,
        trust_remote_code,
        reward_base or (),
        check_vocabulary,
        objectives or (),
    )
    settings = decoding(
        stop,
        preference,
        beta=beta,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        base_top_p=base_top_p,
        base_min_p=base_min_p,
        repetition_penalty=repetition_penalty,
    )
    generate = GenerateOptions(
        models=models,
        prompts=text or (),
        input=input,
        output=output,
        decoding=settings,
        samples=samples,
        seed=seed,
        chat=chat,
        system=system,
        retry_failed=retry_failed,
        overwrite=overwrite,
    )
    options = evaluate_pareto.ParetoOptions(
        generate=generate,
        trajectory_rms=trajectory_rm or (),
        dpos=dpo or (),
        grid=grid,
        steps=steps,
        soup=soup,
        soup_steps=soup_steps,
        score=score.value,
        reference=reference,
        json=json,
        plot=plot,
    )
    return evaluate_pareto.run(options, Console())
