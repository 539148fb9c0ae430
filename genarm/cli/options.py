"""Options that several commands have. Nothing heavy is imported for them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InvalidArgumentError
from .preferences import parse_preferences

MODELS, DRAWS = "Models and weights", "How tokens are drawn"  # panels of a help page

Base = Annotated[
    str | None,
    typer.Option(
        metavar="MODEL",
        rich_help_panel=MODELS,
        help="Folder or hub id of the base model.",
        show_default="the embedded base",
    ),
]
Reward = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=MODELS,
        metavar="NAME=PATH:WEIGHT",
        help="A reward model and its weight (default 1), repeatable; or an embedded one (art, science, agreeableness, "
        "risk) as NAME:WEIGHT; or a folder of genarm train as PATH:WEIGHT.",
    ),
]
RewardBase = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=BASE",
        rich_help_panel=MODELS,
        help="The base that an adapter goes on: own (the one it was trained on), base (--base) or a path; repeatable.",
        show_default="--base where it fits",
    ),
]
Preference = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=OBJECTIVE:SHARE,...",
        rich_help_panel=MODELS,
        help="The preference of a reward model that is conditioned on one: a share of 1 for each of its objectives; "
        "repeatable.",
    ),
]
Objectives = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=OBJECTIVE,...",
        rich_help_panel=MODELS,
        help="The objectives of such a reward model in its own order, where its files do not name them; repeatable.",
    ),
]
Beta = Annotated[
    float, typer.Option(metavar="X", rich_help_panel=MODELS, help="What all reward weights are divided by; above 0.")
]
BaseWeight = Annotated[float, typer.Option(metavar="X", rich_help_panel=MODELS, help="The base model's own weight.")]
GuideWhen = Annotated[
    list[str] | None,
    typer.Option(
        metavar="NAME=X",
        rich_help_panel=MODELS,
        help="Guide only tokens where the base's entropy is at least X nats (entropy=X) or its top probability at most "
        "X (top_probability=X); repeatable, and then both must hold.",
        show_default="every token",
    ),
]
MaxNewTokens = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=DRAWS, min=1, help="The most new tokens per text.")
]
Temperature = Annotated[float, typer.Option(metavar="X", rich_help_panel=DRAWS, min=0, help="0 is greedy.")]
TopK = Annotated[
    int, typer.Option(metavar="N", rich_help_panel=DRAWS, min=0, help="Only the k most likely tokens; 0 is off.")
]
TopP = Annotated[
    float,
    typer.Option(
        metavar="X",
        rich_help_panel=DRAWS,
        min=0,
        max=1,
        help="Only the most likely tokens that make up this mass; 1 is off.",
    ),
]
MinP = Annotated[
    float,
    typer.Option(
        metavar="X",
        rich_help_panel=DRAWS,
        min=0,
        max=1,
        help="Only tokens this likely relative to the likeliest; 0 is off.",
    ),
]
BaseTopP = Annotated[
    float,
    typer.Option(
        metavar="X",
        rich_help_panel=DRAWS,
        min=0,
        max=1,
        help="--top-p by the base model's own probabilities; 1 is off.",
    ),
]
BaseMinP = Annotated[
    float,
    typer.Option(
        metavar="X",
        rich_help_panel=DRAWS,
        min=0,
        max=1,
        help="--min-p by the base model's own probabilities, which keeps texts fluent; 0 is off.",
    ),
]
RepetitionPenalty = Annotated[
    float,
    typer.Option(
        metavar="X", rich_help_panel=DRAWS, help="Above 1, tokens that were there before become less likely; 1 is off."
    ),
]
Stop = Annotated[
    list[str] | None,
    typer.Option(
        rich_help_panel=DRAWS, metavar="TEXT", help=r"End a text before this one, repeatable; \n is a line break."
    ),
]
Chat = Annotated[
    bool, typer.Option("--chat/--no-chat", help="Put each prompt into the chat template as a user's turn.")
]
System = Annotated[str | None, typer.Option(metavar="TEXT", help="A system message before every conversation.")]
RetryFailed = Annotated[
    bool, typer.Option("--retry-failed", help="Decode again what failed in an output that is there.")
]
Overwrite = Annotated[bool, typer.Option("--overwrite", help="Replace an output made with other settings.")]
Seed = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=DRAWS, help="The seed of the draws: the same command writes the same texts."
    ),
]
Method = Annotated[
    str | None,
    typer.Option(
        metavar="NAME",
        rich_help_panel=DRAWS,
        help="Decode by another method, such as best_of_n; `genarm methods` lists them.",
        show_default="guided decoding",
    ),
]
Set = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="NAME=VALUE", rich_help_panel=DRAWS, help="A setting of --method, repeatable; JSON or text."
    ),
]
BatchSize = Annotated[int, typer.Option(metavar="N", rich_help_panel=MODELS, min=1, help="Texts written at once.")]
MaxLength = Annotated[
    int,
    typer.Option(
        metavar="N", rich_help_panel=MODELS, min=1, help="The most tokens of prompt and continuation together."
    ),
]
Dtype = Annotated[
    str, typer.Option(metavar="DTYPE", rich_help_panel=MODELS, help="auto, bfloat16, float16 or float32.")
]
Device = Annotated[str, typer.Option(metavar="DEVICE", rich_help_panel=MODELS, help="auto, cpu, cuda or cuda:N.")]
RemoteCode = Annotated[
    bool,
    typer.Option(
        "--trust-remote-code", rich_help_panel=MODELS, help="Run Python code that a model's repository brings along."
    ),
]

CheckVocabulary = Annotated[
    bool,
    typer.Option(
        "--check-vocabulary/--no-check-vocabulary",
        help="Compare the tokens of reward models with the base's; leave it out only where ids mean the same.",
    ),
]


@dataclass(frozen=True, slots=True)
class ModelOptions:
    """Which models a command decodes with, and how they are loaded."""

    base: str | None = None
    rewards: Sequence[str] = ()
    batch_size: int = 8
    max_length: int = 4096
    dtype: str = "auto"
    device: str = "auto"
    trust_remote_code: bool = False
    reward_bases: Sequence[str] = ()
    check_vocabulary: bool = True
    objectives: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class GenerateOptions:
    """The command line of `genarm generate`. ``decoding`` holds keywords of ``GuidedDecoder.generate``, of which
    ``chosen`` are those that were written out. ``engine`` None decodes in this process."""

    models: ModelOptions = field(default_factory=ModelOptions)
    prompts: Sequence[str] = ()
    input: Path | None = None
    output: Path | None = None
    decoding: dict[str, Any] = field(default_factory=dict)
    samples: int = 1
    seed: int = 0
    chat: bool = False
    system: str | None = None
    json: bool = False
    stats: bool = False
    as_completed: bool = False
    retry_failed: bool = False
    overwrite: bool = False
    method: str | None = None
    method_settings: Sequence[str] = ()
    chosen: frozenset[str] = frozenset()
    engine: str | None = None
    address: str | None = None
    engines: int | None = None


def decoding(
    stop: Sequence[str] | None,
    preference: Sequence[str] | None = None,
    guide_when: Sequence[str] | None = None,
    **values: Any,
) -> dict[str, Any]:
    """Keywords of ``GuidedDecoder.generate``: what a command line can say, checked as far as it can be without models.

    Raises:
        InvalidArgumentError: a number that divides or multiplies and must be above 0, an empty stop string, a threshold
            that is none.
    """
    for name in ("beta", "repetition_penalty"):
        if not values[name] > 0:
            raise InvalidArgumentError(f"--{name.replace('_', '-')} is {values[name]:g}: give a number above 0")
    if preference:
        values["preferences"] = parse_preferences(preference)
    if guide_when:
        values["guide_when"] = dict(map(_threshold, guide_when))
    if stop:
        if not all(stop):
            raise InvalidArgumentError("--stop is empty: give the text that ends an answer")
        for text in stop:
            check_text("--stop", text)
        values["stop"] = [text.replace("\\n", "\n").replace("\\t", "\t") for text in stop]
    return values


def _threshold(text: str) -> tuple[str, float]:
    """NAME=X of --guide-when."""
    name, _, value = text.partition("=")
    try:
        return name, float(value)
    except ValueError:
        raise InvalidArgumentError(
            f"--guide-when is {text!r}: write entropy=X or top_probability=X, X a number"
        ) from None


def check_text(name: str, text: str | None) -> None:
    """Raise InvalidArgumentError for what a shell handed over that is no text."""
    try:
        (text or "").encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{name} {text!r} is not UTF-8: pass text") from None


def is_written(context: typer.Context, name: str) -> bool:
    """Whether somebody gave a parameter of a command, be it its default."""
    source = context.get_parameter_source(name)
    return source is not None and source.name in ("COMMANDLINE", "ENVIRONMENT")
