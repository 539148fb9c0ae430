"""`genarm train`: the options, and nothing heavy until it runs."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InvalidArgumentError
from . import pair_options as pairs


class Method(StrEnum):
    """What can be trained."""

    arm = "arm"
    trajectory_rm = "trajectory-rm"
    dpo = "dpo"
    parm = "parm"
    value = "value"


class Activate(StrEnum):
    """Where an adapter that sleeps on prompts wakes."""

    response = "response"


class Precision(StrEnum):
    """What matrices are multiplied in."""

    auto = "auto"
    bf16 = "bf16"
    fp32 = "fp32"


def train(
    method: Annotated[
        Method,
        typer.Argument(
            help="arm: an autoregressive reward model, which guides decoding. trajectory-rm: a scorer of whole "
            "responses. dpo: a policy. parm: one reward model for several objectives, conditioned on a preference. "
            "value: a value head, which guides VAS.",
            metavar="arm|trajectory-rm|dpo|parm|value",
            show_choices=False,
        ),
    ],
    data: Annotated[
        list[str],
        typer.Option(
            metavar="FILE",
            help="Preference pairs (prompt, chosen, rejected; texts or chat messages): JSONL, Parquet, CSV, a folder "
            "or a data set; repeatable, for all of them together. parm: OBJECTIVE=FILE for each objective. "
            "value: prompts are enough.",
        ),
    ],
    output: Annotated[Path, typer.Option(metavar="FOLDER", help="Where the adapter and training.json go.")],
    base: Annotated[
        str | None, typer.Option(help="Folder or hub id of the base model.", show_default="the embedded base")
    ] = None,
    objective: Annotated[
        str | None, typer.Option(help="What the pairs prefer, in a word.", show_default="the output folder's name")
    ] = None,
    data_weight: Annotated[
        list[float] | None,
        typer.Option(
            help="How much of each --data, in their order: 0.5 takes half of its pairs, 2 takes each pair twice.",
            show_default="1",
        ),
    ] = None,
    where: pairs.Where = None,
    map: pairs.Map = None,
    prompt_column: pairs.PromptColumn = None,
    prompt_template: pairs.PromptTemplate = None,
    chat: pairs.AsChat = False,
    response_marker: pairs.ResponseMarker = None,
    preference: pairs.Preference = None,
    skip_bad_rows: pairs.SkipBadRows = False,
    limit: Annotated[
        int | None,
        typer.Option(min=1, help="Use this many pairs of each --data, from its beginning.", show_default="all"),
    ] = None,
    eval_data: Annotated[
        list[str] | None,
        typer.Option(
            metavar="FILE",
            help="Pairs to evaluate on; repeatable; parm: OBJECTIVE=FILE.",
            show_default="a share of the prompts",
        ),
    ] = None,
    eval_share: Annotated[
        float | None,
        typer.Option(
            help="The share of the prompts held out where there is no --eval-data.",
            show_default="0.05, of few pairs up to 0.15",
        ),
    ] = None,
    beta: Annotated[float, typer.Option(help="β_r in the AR-RM's loss, or β in DPO's.")] = 0.1,
    concentration: Annotated[
        float,
        typer.Option(
            help="Of the Dirichlet distribution that parm draws preferences from; 1 is uniform, less is extremer."
        ),
    ] = 0.5,
    center_rewards: Annotated[float, typer.Option(help="c of c·(r_w + r_l)² in a trajectory RM's loss.")] = 0.0,
    trajectory_rm: Annotated[
        str | None,
        typer.Option(metavar="PATH", help="The trajectory RM whose reward a value head learns.", show_default="none"),
    ] = None,
    samples: Annotated[
        int, typer.Option(min=1, help="Answers of the base to each prompt that a value head learns from.")
    ] = 4,
    new_tokens: Annotated[int, typer.Option(min=1, help="The most tokens of such an answer.")] = 64,
    trace_decay: Annotated[float, typer.Option(help="λ of a value head's TD(λ) targets.")] = 0.95,
    continue_from: Annotated[
        str | None, typer.Option(metavar="FOLDER", help="Go on training this LoRA adapter.", show_default="a new one")
    ] = None,
    load_in_4bit: Annotated[
        bool, typer.Option("--load-in-4bit", help="Hold the frozen base in 4 bits (QLoRA); needs bitsandbytes.")
    ] = False,
    rank: Annotated[int, typer.Option(min=0, help="LoRA's rank; 0 trains the whole model.")] = 8,
    alpha: Annotated[int, typer.Option(min=1, help="LoRA's α.")] = 16,
    dropout: Annotated[float, typer.Option(help="LoRA's dropout.")] = 0.05,
    target_module: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="A layer that gets LoRA; repeatable.", show_default="all linear ones"),
    ] = None,
    activate: Annotated[
        Activate | None,
        typer.Option(
            help="response: the AR-RM's adapter sleeps on prompts and wakes where responses begin, so that a prompt is "
            "read once for the base and every such reward model.",
            show_default="awake everywhere",
        ),
    ] = None,
    epochs: Annotated[
        float | None, typer.Option(help="Passes over the pairs.", show_default="1, of few pairs up to 3")
    ] = None,
    max_steps: Annotated[
        int | None, typer.Option(min=1, help="Optimiser steps, instead of epochs.", show_default="by epochs")
    ] = None,
    learning_rate: Annotated[
        float | None,
        typer.Option(
            "--learning-rate",
            "--lr",
            help="The peak learning rate.",
            show_default="by kind and by the width of the base",
        ),
    ] = None,
    schedule: Annotated[
        str,
        typer.Option(
            help="How the rate changes: cosine, linear, constant, constant_with_warmup, polynomial or inverse_sqrt."
        ),
    ] = "cosine",
    warmup: Annotated[float, typer.Option(help="Warm-up in steps; below 1, as a share of all steps.")] = 0.1,
    weight_decay: Annotated[float, typer.Option(help="The weight decay of AdamW.")] = 0.05,
    batch_size: Annotated[int, typer.Option(min=1, help="Pairs per optimiser step, over all processes.")] = 32,
    micro_batch_size: Annotated[
        int | None,
        typer.Option(min=1, help="Pairs per forward pass and process; gradients are accumulated.", show_default="all"),
    ] = None,
    max_length: Annotated[int, typer.Option(min=8, help="The most tokens of prompt and response together.")] = 1024,
    precision: Annotated[Precision, typer.Option(help="auto: bf16 where the hardware multiplies it.")] = Precision.auto,
    gradient_checkpointing: Annotated[
        bool, typer.Option("--gradient-checkpointing", help="Use less memory and more time.")
    ] = False,
    seed: Annotated[int, typer.Option(help="The seed of new weights, the order of pairs and dropout.")] = 0,
    device: Annotated[str, typer.Option(help="auto, cpu or cuda.")] = "auto",
    save_every: Annotated[
        str,
        typer.Option(
            metavar="STEPS|TIME", help="Steps (500) or time (10m) between checkpoints, or both; 0: only when stopped."
        ),
    ] = "500,10m",
    log_every: Annotated[int, typer.Option(min=1, help="Steps between figures.")] = 10,
    eval_every: Annotated[int, typer.Option(min=0, help="Steps between evaluations; 0: at the end only.")] = 0,
    early_stopping: Annotated[
        int,
        typer.Option(
            min=0, metavar="N", help="Stop after N evaluations without a lower loss, and keep the best; 0: never."
        ),
    ] = 0,
    report_to: Annotated[
        list[str] | None,
        typer.Option(metavar="NAME", help="Where figures go too: tensorboard, wandb, …; repeatable."),
    ] = None,
    push_to_hub: Annotated[
        str | None, typer.Option(metavar="OWNER/NAME", help="Upload the finished folder to the Hugging Face hub.")
    ] = None,
    overwrite: Annotated[bool, typer.Option("--overwrite", help="Replace a run with other settings.")] = False,
    trust_remote_code: Annotated[
        bool, typer.Option("--trust-remote-code", help="Run Python code that a model's repository brings along.")
    ] = False,
) -> int:
    """Train a reward model on preference pairs, or a value head on the base's own answers.

    The output is a PEFT adapter (or a whole model) and training.json: settings, a hash of the data, the seed, and what
    came out. A run that was stopped resumes from its last checkpoint when started again. On several GPUs:
    `accelerate launch -m genarm train ...`.
    """
    from ..models.sources import model_path
    from ..preferences.reading import conditions, pair_reading
    from ..training.continuing import base_for
    from ..training.settings import TrainingSettings
    from ..training.stopping import save_points
    from . import train_report

    steps, seconds = save_points(save_every)
    objectives, data, eval_data = named_data(data, eval_data) if method is Method.parm else ((), data, eval_data)
    settings = TrainingSettings(
        kind=method.value,
        base=base_for(base, continue_from),
        data=tuple(data),
        data_weights=tuple(data_weight or ()),
        where=conditions(where or ()),
        reading=pair_reading(
            map or (), prompt_column, prompt_template, chat, response_marker, preference, skip_bad_rows
        ),
        eval_data=tuple(eval_data) if eval_data else None,
        eval_share=eval_share,
        limit=limit,
        objective=objective or output.resolve().name,
        objectives=objectives,
        concentration=concentration,
        beta=beta,
        center_rewards=center_rewards,
        trajectory_rm=None if trajectory_rm is None else model_path(trajectory_rm),
        samples=samples,
        new_tokens=new_tokens,
        trace_decay=trace_decay,
        continue_from=None if continue_from is None else model_path(continue_from),
        load_in_4bit=load_in_4bit,
        early_stopping=early_stopping,
        report_to=tuple(report_to or ()),
        rank=rank,
        alpha=alpha,
        dropout=dropout,
        target_modules=tuple(target_module or ()),
        activate=None if activate is None else "response",
        epochs=epochs,
        max_steps=max_steps,
        learning_rate=learning_rate,
        schedule=schedule,
        warmup=warmup,
        weight_decay=weight_decay,
        batch_size=batch_size,
        micro_batch_size=micro_batch_size,
        max_length=max_length,
        precision=precision.value,
        gradient_checkpointing=gradient_checkpointing,
        seed=seed,
        device=device,
        save_every=steps,
        save_seconds=seconds,
        log_every=log_every,
        eval_every=eval_every,
        trust_remote_code=trust_remote_code,
    )
    return train_report.run(settings, output, overwrite, push_to_hub)


def named_data(data: list[str], eval_data: list[str] | None) -> tuple[tuple[str, ...], list[str], list[str] | None]:
    """OBJECTIVE=FILE of each objective -> the objectives in their order, their files, and those to evaluate on.

    Raises:
        InvalidArgumentError: an entry of another form, one objective twice, other objectives to evaluate on.
    """

    def read(option: str, texts: list[str]) -> dict[str, str]:
        found: dict[str, str] = {}
        for text in texts:
            name, equals, file = text.partition("=")
            if not name or not equals or not file:
                raise InvalidArgumentError(f"{option} {text!r}: parm trains on OBJECTIVE=FILE, one for each objective")
            if name in found:
                raise InvalidArgumentError(
                    f"{option} names {name!r} twice: give each objective one data set, or a folder"
                )
            found[name] = file
        return found

    trained, measured = read("--data", data), read("--eval-data", eval_data or [])
    if measured and measured.keys() != trained.keys():
        raise InvalidArgumentError(f"--eval-data needs one data set for each of {', '.join(trained)}: name those")
    return tuple(trained), list(trained.values()), [measured[name] for name in trained] if measured else None
