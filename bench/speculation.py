"""What the speculation suite measures: decoding with and without drafts, in turn, round by round.

Every round has prompts of its own, which all contenders decode in turn with the same seed, so that in float32 a
contender with drafts decodes the very tokens of the one without. The decoder's own statistics tell the time; reading
prompts is not in it, as no draft changes it.
"""

from __future__ import annotations

import statistics
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

from bench.copy_models import copy_models
from bench.measure import DEVICE
from bench.speculation_prompts import PROMPTS
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
    def undrafted(self) -> Contender:
        return Contender(self.rewards)

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
    tokens: int = 97  # of which the first is the prompt's
    rounds: int = 9  # each has other prompts
    full: bool = False

    @property
    def name(self) -> str:
        return f"{self.model}-{self.prompts}-T{self.temperature:g}-B{self.batch}"


@dataclass(frozen=True, slots=True)
class Figures:
    """Of a contender: seconds per token of a row, and counts that depend on no clock."""

    seconds: float
    steps: float  # per token of a row, with the step that reads the prompt left out as it draws one for everybody
    drafted: int
    accepted: int
    verified: int  # steps that had drafts, row by row
    distinct: float  # share of a text's 4-grams that differ, in the mean over texts
    tokens: tuple[tuple[int, ...], ...]
    engine: str


@dataclass(slots=True)
class Measured:
    case: Case
    rounds: list[dict[Contender, Figures]]
    source: float  # share of the prompts' own 4-grams that differ

    def figures(self, contender: Contender) -> list[Figures]:
        return [figures[contender] for figures in self.rounds]

    def ratios(self, contender: Contender, over: Contender) -> list[float] | None:
        """The contender's time over another's, round by round; None where the other is not there."""
        if over not in self.case.contenders:
            return None
        pairs = zip(self.figures(contender), self.figures(over), strict=True)
        return [own.seconds / other.seconds for own, other in pairs]

    def same(self, contender: Contender) -> float:
        """The share of rounds in which the texts are those of the same reward models without drafts."""
        undrafted = self.figures(contender.undrafted)
        pairs = zip(self.figures(contender), undrafted, strict=True)
        return statistics.fmean(own.tokens == other.tokens for own, other in pairs)

    def counts(self, contender: Contender) -> dict[str, float | None]:
        """Over all rounds: steps per token, the share of drafts that was accepted, tokens per step that had drafts,
        and distinct 4-grams, of the text that loops most too."""
        found = self.figures(contender)
        drafted, accepted, verified = (
            sum(getattr(one, name) for one in found) for name in ("drafted", "accepted", "verified")
        )
        return {
            "steps": statistics.fmean(one.steps for one in found),
            "acceptance": accepted / drafted if drafted else None,
            "length": 1 + accepted / verified if verified else None,
            "distinct": statistics.fmean(one.distinct for one in found),
            "distinct_least": min(one.distinct for one in found),
            "distinct_source": self.source,
        }


@lru_cache(maxsize=1)
def measured(case: Case) -> Measured:
    """Warm every contender up, then time them in turn. The last case's result is kept."""
    prompts = make_prompts(case)
    decoders = build(case)
    check_tokens(case, decoders, prompts[0])

    def turns(contender: Contender) -> Iterator[Figures]:
        for seed, rows in enumerate(prompts):
            yield figures(case, decode(case, contender, decoders, rows, seed))

    calls: dict[Contender, Callable[[], Figures]] = {one: turns(one).__next__ for one in case.contenders}
    source = statistics.fmean(distinct(row.tolist()) for rows in prompts for row in rows)
    return Measured(case, rotate(calls, case.rounds), source)


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
    """A batch [B, T] per round, the same for every contender."""
    generator = torch.Generator().manual_seed(0)
    made = [PROMPTS[case.model, case.prompts](case.batch, generator) for _ in range(case.rounds)]
    return [prompts.to(DEVICE) for prompts in made]


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


def figures(case: Case, out: GenerationOutput) -> Figures:
    """Of one call."""
    stats, steps = out.stats, case.tokens - 1
    return Figures(
        stats.decode_seconds / steps,
        (stats.steps - 1) / steps,
        stats.drafted,
        stats.accepted,
        stats.verified,
        statistics.fmean(distinct(row.tolist()) for row in out.tokens),
        tuple(tuple(row.tolist()) for row in out.tokens),
        stats.engine,
    )


def distinct(tokens: list[int]) -> float:
    """The share of a text's 4-grams that differ: of text that loops it is near 0."""
    grams = [tuple(tokens[start : start + GRAM]) for start in range(len(tokens) - GRAM + 1)]
    return len(set(grams)) / len(grams)
