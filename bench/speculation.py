"""What the speculation suite measures: decoding with and without drafts, in turn, round by round.

A contender decodes every prompt of its case, one batch after the other, and is timed by the decoder's own statistics;
reading prompts is not in the time, as no draft changes it. All draw with the same seeds, so that in float32 a contender
with drafts decodes the very tokens of the one without.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.copy_models import copy_models
from bench.copy_text import AGAIN, BEGIN, NAMES, VOCABULARY, draw_texts
from bench.measure import DEVICE
from genarm import GuidedDecoder
from genarm.cli.bench import rotate
from genarm.embedded import BASE, REWARDS
from genarm.request.output import GenerationOutput

DTYPE = torch.float32  # in which drafts change no token
GRAM = 4


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to decode: with a reward model or none, drafted by ``draft`` or not at all."""

    rewards: str | None = None  # "lora" on the base, "weak": a smaller model of its own
    draft: str | None = None
    gamma: int | str | None = None

    @property
    def name(self) -> str:
        rewards = {None: "plain", "lora": "guided", "weak": "weak-to-strong"}[self.rewards]
        gamma = "" if self.gamma is None else f"-{self.gamma}"
        return rewards + (f"+{self.draft}{gamma}" if self.draft else "")

    @property
    def speculate(self) -> Any:
        """The argument of ``generate``."""
        if self.draft is None or self.gamma is None:
            return self.draft
        return {"draft": self.draft, "gamma": self.gamma}


PLAIN, GUIDED, WEAK = Contender(), Contender("lora"), Contender("weak")


@dataclass(frozen=True, slots=True)
class Case:
    """What is decoded: a model, prompts of a kind, at a temperature, in batches."""

    model: str
    prompts: str
    temperature: float
    contenders: tuple[Contender, ...]
    batch: int = 1
    calls: int = 3  # batches per round
    tokens: int = 129  # of which the first is the prompt's
    rounds: int = 9
    full: bool = False

    @property
    def name(self) -> str:
        return f"{self.model}-{self.prompts}-T{self.temperature:g}-B{self.batch}"


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a contender's calls: seconds per token of a row, and what does not vary from round to round."""

    seconds: float
    steps: float  # per token of a row, with the step that reads the prompt left out as it draws one for everybody
    accepted: float | None  # of the drafts
    length: float | None  # tokens per step that had drafts
    distinct: float  # share of 4-grams that are the first of their kind in their text
    engine: str


@dataclass(slots=True)
class Measured:
    case: Case
    rounds: list[dict[Contender, Figures]] = field(default_factory=list)

    def seconds(self, contender: Contender) -> list[float]:
        return [figures[contender].seconds for figures in self.rounds]

    def ratios(self, contender: Contender, over: Contender) -> list[float] | None:
        """The contender's time over another's, round by round; None where the other is not there."""
        if over not in self.case.contenders:
            return None
        return [own / other for own, other in zip(self.seconds(contender), self.seconds(over), strict=True)]

    def steps_over(self, contender: Contender, over: Contender) -> float | None:
        """The contender's steps per token over another's."""
        if over not in self.case.contenders:
            return None
        return self.rounds[0][contender].steps / self.rounds[0][over].steps


@lru_cache(maxsize=1)
def measured(case: Case) -> Measured:
    """Warm every contender up, then time them in turn. The last case's result is kept."""
    prompts = make_prompts(case)
    decoders = build(case)
    calls: dict[Contender, Callable[[], Figures]] = {
        contender: lambda contender=contender: figures(case, contender, decoders, prompts)
        for contender in case.contenders
    }
    check_tokens(case, decoders, prompts[0])
    return Measured(case, rotate(calls, case.rounds))


def check_tokens(case: Case, decoders: Mapping[str | None, GuidedDecoder], prompts: Tensor) -> None:
    """Warm every contender up, and hold the drafted ones to the tokens of the one without drafts.

    Raises:
        AssertionError: a contender with drafts decodes other tokens.
    """
    undrafted: dict[str | None, list[list[int]]] = {}
    for contender in sorted(case.contenders, key=lambda one: one.draft is not None):
        tokens = [row.tolist() for row in decode(case, contender, decoders, prompts).tokens]
        expected = undrafted.setdefault(contender.rewards, tokens)
        assert tokens == expected, f"{contender.name} decodes other tokens than without drafts"


def build(case: Case) -> dict[str | None, GuidedDecoder]:
    """A decoder per kind of reward models."""
    kinds = dict.fromkeys(contender.rewards for contender in case.contenders)
    settings: dict[str, Any] = {"max_batch_size": case.batch, "max_length": 1024}
    if case.model == "embedded":
        rewards = {None: {}, "lora": {"reward": str(REWARDS["art"])}}
        loaded = GuidedDecoder.from_pretrained(
            str(BASE), {}, dtype=str(DTYPE).removeprefix("torch."), device=str(DEVICE), **settings
        )
        return {
            kind: GuidedDecoder(loaded.base_model, rewards[kind], tokenizer=loaded.tokenizer, **settings)
            for kind in kinds
        }
    models = copy_models(DTYPE, DEVICE)
    by_kind: Mapping[str | None, dict[str, Any]] = {
        None: {},
        "lora": {"reward": models.adapter},
        "weak": {"reward": models.weak},
    }
    return {kind: GuidedDecoder(models.base, by_kind[kind], **settings) for kind in kinds}


def make_prompts(case: Case) -> list[Tensor]:
    """A batch [B, T] per call of a round, the same for every contender."""
    generator = torch.Generator().manual_seed(0)
    made = [PROMPTS[case.prompts](case.batch, generator) for _ in range(case.calls)]
    return [prompts.to(DEVICE) for prompts in made]


def quoting(batch: int, generator: torch.Generator) -> Tensor:
    """A passage of 160 words to be quoted, and another one."""
    return draw_texts(batch, 160, 64, generator).prompts


def chat(batch: int, generator: torch.Generator) -> Tensor:
    """Four turns of passages of 24 words and their quotations, then a fifth, of which little is left to be quoted."""
    turns = []
    for _ in range(4):
        texts = draw_texts(batch, 24, 8, generator)
        turns += [texts.prompts, texts.quotations]
    return torch.cat([*turns, draw_texts(batch, 24, 8, generator).prompts], 1)


def random_words(batch: int, generator: torch.Generator) -> Tensor:
    """Words in no order, some of them twice, and a name that names nothing."""
    words = torch.randint(NAMES.stop, VOCABULARY, (batch, 224), generator=generator)
    ends = torch.tensor([AGAIN, NAMES.start]).expand(batch, -1)
    return torch.cat([torch.full((batch, 1), BEGIN), words, ends], 1)


def statements(batch: int, generator: torch.Generator) -> Tensor:
    """How the embedded base's texts begin; they are short, and quote nothing."""
    del generator
    return torch.tensor([[0, 45]]).expand(batch, -1)  # "<s>I"


PROMPTS: dict[str, Callable[[int, torch.Generator], Tensor]] = {
    "quoting": quoting,
    "chat": chat,
    "random": random_words,
    "statements": statements,
}


def decode(
    case: Case, contender: Contender, decoders: Mapping[str | None, GuidedDecoder], prompts: Tensor, seed: int = 0
) -> GenerationOutput:
    return decoders[contender.rewards].generate(
        prompts,
        torch.ones_like(prompts),
        max_new_tokens=case.tokens,
        temperature=case.temperature,
        eos_token_id=[],
        seed=seed,
        speculate=contender.speculate,
    )


def figures(
    case: Case, contender: Contender, decoders: Mapping[str | None, GuidedDecoder], prompts: list[Tensor]
) -> Figures:
    """Of all calls of a round together."""
    outs = [decode(case, contender, decoders, rows, seed) for seed, rows in enumerate(prompts)]
    stats = [out.stats for out in outs]
    behind = len(prompts) * (case.tokens - 1)  # tokens of a row that a step gave
    drafted, verified = sum(one.drafted for one in stats), sum(one.verified for one in stats)
    accepted = sum(one.accepted for one in stats)
    return Figures(
        sum(one.decode_seconds for one in stats) / behind,
        sum(one.steps - 1 for one in stats) / behind,
        accepted / drafted if drafted else None,
        1 + accepted / verified if verified else None,
        statistics.fmean(distinct(row.tolist()) for out in outs for row in out.tokens),
        stats[0].engine,
    )


def distinct(tokens: list[int]) -> float:
    """The share of a text's 4-grams that differ: of text that loops it is near 0."""
    grams = [tuple(tokens[start : start + GRAM]) for start in range(len(tokens) - GRAM + 1)]
    return len(set(grams)) / len(grams)
