"""The decoding suite's cases: a shape, and who decodes it.

A ratio compares neighbours in time, so what is compared stands in one case. Cases come in the order of their
importance, those that compile last: a run cut short has measured the targets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from itertools import product
from typing import Any

from bench.decode_models import MODELS

OURS = "ours"
ACTIVATED = "activated"  # the same with reward models that sleep on the prompt
# Ways to make B rows of one prompt, by what the library is asked for.
OF_ONE_PROMPT: dict[str, Callable[[int], dict[str, Any]]] = {
    "answers": lambda batch: {"num_return_sequences": batch},
    "particles": lambda batch: {"particles": batch},
    "particles-each": lambda batch: {"particles": batch, "resample_below": 1.0},
}
BATCHES, CONTEXTS = (1, 4, 16, 64), (128, 3072, 16384)
PARTICLES = 8
# Random models' normalisers are much the same after any text; so far below 1 they tell texts apart, as trained ones do.
UNEVEN = 0.15


@dataclass(frozen=True, slots=True)
class Contender:
    """A way to decode, with K reward models."""

    way: str
    K: int

    @property
    def name(self) -> str:
        return f"{self.way}-K{self.K}"

    @property
    def is_ours(self) -> bool:
        """Whether it is this library's, in whichever way."""
        return self.way in (OURS, ACTIVATED, *OF_ONE_PROMPT)

    @property
    def compiled(self) -> bool:
        return self.way.startswith(("hf-static", "loop-compiled"))


@dataclass(frozen=True, slots=True)
class Case:
    """One shape: a model, what its reward models are (LoRA on it, or separate models of its size), B and context."""

    model: str
    rewards: str
    batch: int
    context: int
    contenders: tuple[Contender, ...]
    rounds: int
    tokens: int = 33  # the first is the prompt's: 32 steps
    prompts: int = 1  # that are different; the batch repeats them
    temperature: float = 1.0  # of this library's draws
    part: str = ""  # tells apart cases of one shape
    full: bool = False

    @property
    def name(self) -> str:
        shape = f"{self.model}-{self.rewards}-B{self.batch}-T{self.context}"
        return f"{shape}-{self.part}" if self.part else shape


def activated(*Ks: int) -> tuple[Contender, ...]:
    return tuple(Contender(ACTIVATED, K) for K in Ks)


def ours(*Ks: int) -> tuple[Contender, ...]:
    return tuple(Contender(OURS, K) for K in Ks)


PLAIN = Contender(OURS, 0)
# Plain, one and two reward models; what transformers' users run, without and with guidance.
HAND_MADE = tuple(Contender(way, K) for way, K in (("hf", 0), ("hf+processor", 1), ("loop", 1), ("loop", 2)))
COMPILED = tuple(Contender(way, K) for way, K in (("hf-static", 0), ("hf-static+processor", 1), ("loop-compiled", 1)))
EVERYTHING = ours(0, 1, 2, 3)


def particle_case(model: str, K: int, context: int, rounds: int) -> Case:
    """Eight prompts, answers of one, and particles of one, resampled where that is due and after every token."""
    ways = tuple(Contender(way, K) for way in (OURS, *OF_ONE_PROMPT))
    case = Case(model, "lora", PARTICLES, context, ways, rounds, part="particles")
    return replace(case, prompts=PARTICLES, temperature=UNEVEN)


def long_cases(model: str, contexts: tuple[int, ...], one: int, rounds: int) -> list[Case]:
    """Where caches count: reward models that read the prompt and such that sleep on it; sixteen answers of one prompt,
    which hold it once for each kind of stream, and of sixteen prompts, which have nothing in common."""
    ways = *ours(0, 1, 3), *activated(1, 3)
    alone = [Case(model, "lora", 1, context, ways, rounds, part="activated") for context in contexts]
    ways = *ours(0, 1), *activated(1)
    apart = Case(model, "lora", 16, one, ours(0), rounds, prompts=16, part="sixteen-prompts")
    return [*alone, Case(model, "lora", 16, one, ways, rounds, part="one-prompt"), apart]


def gpu_cases() -> list[Case]:
    large, short = "Llama-3.1-8B", 5
    # First what has targets, then the two sweeps, other models, and what compiles for minutes.
    quick = [
        Case(large, "lora", 1, 1024, ours(0, 1, 2, 3), 9),
        Case(large, "lora", 1, 3072, ours(0, 1, 2, 3), 9),
        Case(large, "separate", 1, 128, ours(0, 1), 9, tokens=129),
        *(Case(large, "lora", batch, 3072, ours(0, 1, 3), short) for batch in (4, 16)),
        # Every decoder keeps its cache: three reward models' beside the others' are more than the device holds.
        Case(large, "lora", 64, 3072, ours(0, 1), short),
        *(Case(large, "lora", 1, context, ours(0, 1, 3), short) for context in (128, 16384)),
        *long_cases(large, (3072, 16384), 2048, short),
        *(particle_case(large, K, 1024, short) for K in (1, 3)),
        Case(large, "lora", 1, 1024, (*ours(0, 1, 2), *HAND_MADE), short, part="peers"),
        *(Case(model, "lora", 1, 3072, ours(0, 1, 3), short) for model in MODELS[1:]),
        Case("Qwen3-0.6B", "lora", 1, 1024, (*ours(0, 1), *HAND_MADE[:3], *COMPILED), short, part="compiled"),
    ]
    everything = []
    for model, rewards, batch, context in product(MODELS, ("lora", "separate"), BATCHES, CONTEXTS):
        peers = (*HAND_MADE, *COMPILED) if batch in (1, 16) and context == 3072 else ()
        everything.append(Case(model, rewards, batch, context, (*EVERYTHING, *peers), 9, part="full", full=True))
    return quick + everything


def cpu_cases() -> list[Case]:
    # These only show that everything runs; their figures mean nothing.
    tiny = [
        Case("tiny", rewards, batch, context, ours(0, 1, 3), 3, tokens=9, part="smoke")
        for rewards, batch, context in (("lora", 1, 16), ("lora", 4, 16), ("lora", 1, 64), ("separate", 1, 16))
    ]
    sweep = [
        Case("small", rewards, batch, context, EVERYTHING, 9, full=True)
        for rewards, batch, context in product(("lora", "separate"), (1, 4, 16), (128, 256, 1024))
        if (batch == 1 or context == 256) and (rewards, batch, context) != ("lora", 1, 256)
    ]
    guided = Case("small", "lora", 1, 256, (*EVERYTHING, *HAND_MADE, *COMPILED), 9)
    # Eight prompts are most of the time, so they are short.
    particles = [particle_case("small", K, 64, 9) for K in (1, 3)]
    # Their prompts take a minute each.
    long = [replace(case, full=True) for case in long_cases("small", (256, 1024, 4096), 2048, 3)]
    tiny += [particle_case("tiny", 1, 16, 3), *(replace(case, tokens=9) for case in long_cases("tiny", (16,), 16, 3))]
    return [guided, *particles, *tiny, *long, *sweep]
