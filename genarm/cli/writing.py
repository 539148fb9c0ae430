"""Options of the commands that write text, `genarm generate` and `genarm chat`; nothing heavy until they run."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from . import bulk_options as many
from . import options as given
from . import particle_options as whole
from . import speculation_options as drafts
from .options import GenerateOptions, ModelOptions, check_text, decoding, is_written
from .particle_options import whole_answers
from .speculation_options import speculation


def generate(
    context: typer.Context,
    text: Annotated[
        list[str] | None, typer.Argument(metavar="TEXT", help="What to go on from; several are several prompts.")
    ] = None,
    base: given.Base = None,
    reward: given.Reward = None,
    preference: given.Preference = None,
    beta: given.Beta = 1.0,
    base_weight: given.BaseWeight = 1.0,
    guide_when: given.GuideWhen = None,
    prompt: Annotated[list[str] | None, typer.Option(metavar="TEXT", help="The same as TEXT, repeatable.")] = None,
    input: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE",
            help="Prompts: one per line, or JSONL rows or a JSON array of {id?, prompt or messages, weights?, own "
            "settings?}; plain or gzip; - is the standard input.",
        ),
    ] = None,
    output: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="JSONL, one row per text. A run that was stopped resumes."),
    ] = None,
    max_new_tokens: given.MaxNewTokens = 128,
    samples: Annotated[
        int,
        typer.Option("-n", "--num-return-sequences", metavar="N", min=1, help="Texts per prompt, all different draws."),
    ] = 1,
    temperature: given.Temperature = 1.0,
    top_k: given.TopK = 0,
    top_p: given.TopP = 1.0,
    min_p: given.MinP = 0.0,
    base_top_p: given.BaseTopP = 1.0,
    base_min_p: given.BaseMinP = 0.0,
    repetition_penalty: given.RepetitionPenalty = 1.0,
    stop: given.Stop = None,
    seed: given.Seed = 0,
    particles: whole.Particles = None,
    resample_below: whole.ResampleBelow = None,
    resample_every: whole.ResampleEvery = None,
    length_bonus: whole.LengthBonus = None,
    terminal: whole.Terminal = None,
    speculate: drafts.Speculate = None,
    gamma: drafts.Gamma = None,
    method: given.Method = None,
    set_: given.Set = None,
    chat: given.Chat = False,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="A system message before every conversation (--chat, messages).")
    ] = None,
    json: Annotated[bool, typer.Option("--json", help="Print rows of JSON instead of text.")] = False,
    stats: Annotated[
        bool, typer.Option("--stats", help="Print tokens, speed and log-probabilities on the standard error.")
    ] = False,
    as_completed: Annotated[
        bool,
        typer.Option("--as-completed", help="Rows as they are done, long prompts first; not in the input's order."),
    ] = False,
    retry_failed: given.RetryFailed = False,
    overwrite: given.Overwrite = False,
    batch_size: given.BatchSize = 8,
    max_length: given.MaxLength = 4096,
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    trust_remote_code: given.RemoteCode = False,
    reward_base: given.RewardBase = None,
    objectives: given.Objectives = None,
    check_vocabulary: given.CheckVocabulary = True,
    engine: many.Engine = None,
    address: many.Address = None,
    engines: many.Engines = None,
) -> int:
    """Write texts: on from a prompt, which appear as they are written, or for a file of prompts.

    Each row of an output holds id, prompt (or messages), the input's other columns, text, weights, token_count,
    logprob_sum (of the generated tokens, as they were drawn), logprob_sums (a model's log-probability of them, by
    model; under --method instead score, what the text was chosen by, where there is one), log_evidence (under
    --particles: of the product's normaliser), drafted, accepted and draft_steps (under --speculate) and finish_reason;
    a row that failed holds error instead. The exit status is 1 when a row failed.
    """
    from . import generate

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
        guide_when,
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
    settings |= whole_answers(particles, resample_below, resample_every, length_bonus, terminal)
    settings |= speculation(speculate, gamma, particles)
    options = GenerateOptions(
        models=models,
        prompts=[*(text or ()), *(prompt or ())],
        input=input,
        output=output,
        decoding=settings,
        samples=samples,
        seed=seed,
        chat=chat,
        system=system,
        json=json,
        stats=stats,
        as_completed=as_completed,
        retry_failed=retry_failed,
        overwrite=overwrite,
        method=method,
        method_settings=set_ or (),
        chosen=frozenset(name for name in settings if is_written(context, name)),
        engine=engine,
        address=address,
        engines=engines,
    )
    return generate.generate(options)


def chat(
    base: given.Base = None,
    reward: given.Reward = None,
    preference: given.Preference = None,
    beta: given.Beta = 1.0,
    base_weight: given.BaseWeight = 1.0,
    guide_when: given.GuideWhen = None,
    system: Annotated[
        str | None, typer.Option(metavar="TEXT", help="The system message that the conversation begins with.")
    ] = None,
    transcript: Annotated[
        bool,
        typer.Option("--transcript", help="Write the conversation as lines User: and Assistant:, for a base model."),
    ] = False,
    max_new_tokens: given.MaxNewTokens = 512,
    temperature: given.Temperature = 1.0,
    top_k: given.TopK = 0,
    top_p: given.TopP = 1.0,
    min_p: given.MinP = 0.0,
    base_top_p: given.BaseTopP = 1.0,
    base_min_p: given.BaseMinP = 0.0,
    repetition_penalty: given.RepetitionPenalty = 1.0,
    stop: given.Stop = None,
    seed: given.Seed = 0,
    particles: whole.Particles = None,
    resample_below: whole.ResampleBelow = None,
    resample_every: whole.ResampleEvery = None,
    length_bonus: whole.LengthBonus = None,
    terminal: whole.Terminal = None,
    speculate: drafts.Speculate = None,
    gamma: drafts.Gamma = None,
    max_length: given.MaxLength = 4096,
    dtype: given.Dtype = "auto",
    device: given.Device = "auto",
    trust_remote_code: given.RemoteCode = False,
    reward_base: given.RewardBase = None,
    objectives: given.Objectives = None,
    check_vocabulary: given.CheckVocabulary = True,
) -> int:
    """Talk with a guided model: answers appear as they are written, and weights change while you talk.

    With the model's chat template; without one, each line is a text of its own to go on from, or with --transcript a
    conversation of plain text. /weights art=1 risk=0 changes weights, /help lists the other commands. Ctrl-C ends an
    answer, Ctrl-D the program.
    """
    from . import chat

    check_text("--system", system)
    models = ModelOptions(
        base,
        reward or (),
        1,
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
        guide_when,
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
    settings |= whole_answers(particles, resample_below, resample_every, length_bonus, terminal)
    settings |= speculation(speculate, gamma, particles)
    return chat.chat(chat.ChatOptions(models, settings, seed, system, transcript))
