"""Options of `genarm evaluate gap`; nothing heavy until it runs."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import options as given
from . import particle_options as whole
from .options import GenerateOptions, ModelOptions, check_text, decoding

GAP = "What is measured"


def gap(
    text: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="TEXT",
            help="What to go on from; several are several prompts.",
            show_default="the three prompts of genarm demo",
        ),
    ] = None,
    input: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Prompts, in any form that genarm generate --input reads."),
    ] = None,
    base: given.Base = None,
    reward: given.Reward = None,
    preference: given.Preference = None,
    weights: Annotated[
        str,
        typer.Option(
            metavar="W,W,...",
            rich_help_panel=GAP,
            help="What the reward models' own weights are multiplied by, each in turn.",
        ),
    ] = "1",
    particles: Annotated[
        str,
        typer.Option(
            metavar="N,N,...", rich_help_panel=GAP, help="Particles per answer, each in turn; 1 is plain decoding."
        ),
    ] = "1,4,16,64",
    samples: Annotated[
        int,
        typer.Option(
            "-n",
            "--samples",
            metavar="N",
            rich_help_panel=GAP,
            min=2,
            help="Answers per prompt, weights and number of particles.",
        ),
    ] = 8,
    resample_below: whole.ResampleBelow = None,
    resample_every: whole.ResampleEvery = None,
    length_bonus: whole.LengthBonus = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="Every answer's estimate as JSONL. A run that was stopped resumes."),
    ] = None,
    json: Annotated[Path | None, typer.Option("--json", metavar="FILE", help="The figures as JSON.")] = None,
    plot: Annotated[
        Path | None, typer.Option(metavar="FILE", help="A picture of the gap over N (png, svg, pdf).")
    ] = None,
    beta: given.Beta = 1.0,
    base_weight: given.BaseWeight = 1.0,
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
        int,
        typer.Option(metavar="N", rich_help_panel=given.MODELS, min=1, help="Particles decoded at once, about."),
    ] = 64,
    max_length: given.MaxLength = 4096,
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    trust_remote_code: given.RemoteCode = False,
    reward_base: given.RewardBase = None,
    check_vocabulary: given.CheckVocabulary = True,
    objectives: given.Objectives = None,
) -> int:
    """How far token-by-token decoding lies from the product over whole answers, and what particles mend of it.

    Plain guided decoding renormalises at every token, and so draws from something else than the product of the models'
    probabilities of whole answers. The table says how many nats at least, how many particles close how much of that,
    and what an answer costs in seconds.
    """
    from rich.console import Console

    from . import evaluate_gap

    check_text("--system", system)
    models = ModelOptions(
        base,
        reward or (),
        batch_size,
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
        base_weight=base_weight,
        max_new_tokens=max_new_tokens,
        temperature=temperature,
        top_k=top_k,
        top_p=top_p,
        min_p=min_p,
        base_top_p=base_top_p,
        base_min_p=base_min_p,
        repetition_penalty=repetition_penalty,
    )
    written = {"resample_below": resample_below, "resample_every": resample_every, "length_bonus": length_bonus}
    generate = GenerateOptions(
        models=models,
        prompts=text or (),
        input=input,
        output=output,
        decoding=settings | {name: value for name, value in written.items() if value is not None},
        samples=samples,
        seed=seed,
        chat=chat,
        system=system,
        retry_failed=retry_failed,
        overwrite=overwrite,
    )
    return evaluate_gap.run(evaluate_gap.GapOptions(generate, weights, particles, json, plot), Console())
