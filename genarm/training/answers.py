"""Answers of the base to a run's prompts, and what a trajectory RM says of each: what a value head learns from."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, TypedDict

import torch

from ..decoder import GuidedDecoder
from ..errors import NumericalError
from ..models.options import LoadOptions
from ..scalars import scalar, text_scores
from .models import four_bits
from .prompts import PromptSets
from .settings import TrainingSettings

AT_ONCE = 32


class ScoredAnswer(TypedDict):
    """Tokens of a prompt and of an answer to it, of which the first ``prompt`` are the prompt's, and its reward."""

    ids: list[int]
    prompt: int
    reward: float


@dataclass(frozen=True, slots=True)
class AnswerSets:
    """Answers to train on and to measure on; ``rewards`` are the mean and the deviation of the former's."""

    train: list[ScoredAnswer]
    held_out: list[ScoredAnswer]
    rewards: dict[str, float]
    notes: list[str]

    @property
    def longest(self) -> int:
        """Tokens of the longest sequence."""
        return max(len(answer["ids"]) for answer in (*self.train, *self.held_out))


def answered(settings: TrainingSettings, prompts: PromptSets, tokenizer: Any, say: Callable[[str], None]) -> AnswerSets:
    """Draw an answer to each prompt from the base at temperature 1, and score it whole, EOS included.

    A run's seed settles the answers, whatever number of them is drawn at once.

    Raises:
        GenARMError: a trajectory RM that cannot be loaded or is of another vocabulary, or a score that is no number.
    """
    started = time.perf_counter()
    dtype = torch.bfloat16 if settings.bf16 else torch.float32
    more: LoadOptions = {"quantization_config": four_bits(dtype)} if settings.load_in_4bit else {}
    decoder = GuidedDecoder.from_pretrained(
        settings.base,
        dtype=dtype,
        device="cuda" if settings.on_cuda else "cpu",
        tokenizer=tokenizer,
        max_batch_size=AT_ONCE,
        max_length=settings.max_length,
        trust_remote_code=settings.trust_remote_code,
        **more,
    ).only()
    scorer = scalar(decoder, settings.trajectory_rm or "", "trajectory_rm")
    everything = [*prompts.train, *prompts.held_out]
    found = decoder.generate(everything, max_new_tokens=settings.new_tokens, seed=settings.seed)
    for error in found.errors.values():
        raise error
    texts = [[*prompt, *own.tolist()] for prompt, own in zip(everything, found.tokens, strict=True)]
    rewards = text_scores(scorer, texts, decoder)
    if not rewards.isfinite().all():
        raise NumericalError(f"{settings.trajectory_rm} gives scores that are no numbers: check its weights and dtype")
    answers = [
        ScoredAnswer(ids=text, prompt=len(prompt), reward=reward)
        for text, prompt, reward in zip(texts, everything, rewards.tolist(), strict=True)
    ]
    split = len(prompts.train)
    summary = _summary(rewards.tolist()[:split])
    seconds, tokens = time.perf_counter() - started, sum(map(len, found.tokens)) / len(answers)
    say(
        f"{len(answers)} answers of {tokens:.1f} tokens each were drawn and scored in {seconds:.1f} s: mean reward "
        f"{summary['mean']:.3f}, deviation {summary['deviation']:.3f}"
    )
    decoder.release()
    return AnswerSets(answers[:split], answers[split:], summary, prompts.notes)


def _summary(rewards: Sequence[float]) -> dict[str, float]:
    values = torch.tensor(rewards, dtype=torch.float64)
    return {"mean": round(float(values.mean()), 6), "deviation": round(float(values.std(correction=0)), 6)}
