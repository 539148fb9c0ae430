"""One draw from the guided distribution: the models' logits in, one token a row out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

import genarm_kernels

from ..guidance import Guidance

# (generated so far [B, t], combined scores s [B, V]) -> edited scores [B, V]
ScoreEdit = Callable[[Tensor, Tensor], Tensor]


def combined_scores(logits: list[Tensor], weights: Tensor, bias: Tensor | None, vocab_size: int) -> Tensor:
    """s = bias + Σ w_m z_m, [B, V] float32, un-normalised; −inf where the base or any weighted model has −inf."""
    excluded = logits[0][:, :vocab_size] == -math.inf
    scores = torch.zeros_like(excluded, dtype=torch.float32)
    for index, row in enumerate(logits):
        z = row[:, :vocab_size].float()
        weight = weights[:, index, None]
        excluded |= (weight != 0) & (z == -math.inf)
        scores += torch.where(weight != 0, weight * z, 0.0)
    if bias is not None:
        scores += bias
    return scores.masked_fill(excluded, -math.inf)


def repetition_penalty(scores: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Scores of tokens already ``seen`` [B, V] divided by the penalty where positive, multiplied where negative.

    Source: Keskar et al. 2019 (CTRL), as in Hugging Face's RepetitionPenaltyLogitsProcessor.
    """
    factor = penalty[:, None] if isinstance(penalty, Tensor) else penalty
    return torch.where(seen, torch.where(scores < 0, scores * factor, scores / factor), scores)


@dataclass(slots=True)
class Sampler:
    """Draws one token a row. B rows, V ids. ``edit`` acts on the combined scores, as Hugging Face's processors do.

    ``edited_scores`` and ``raw_scores`` keep the last step's scores where an edit needed them.
    """

    guidance: Guidance
    vocab_size: int
    return_logprobs: bool = False
    edit: ScoreEdit | None = None
    seen: Tensor | None = None  # [B, V] bool, kept only under a repetition penalty
    edited_scores: Tensor | None = field(default=None)
    raw_scores: Tensor | None = field(default=None)

    def remember_prompts(self, prompts: list[Tensor]) -> None:
        """Start counting repetitions, if they are penalised at all."""
        penalty = self.guidance.repetition_penalty
        if isinstance(penalty, float) and penalty == 1.0:
            return
        self.seen = torch.zeros(len(prompts), self.vocab_size, dtype=torch.bool, device=prompts[0].device)
        for row, prompt in enumerate(prompts):
            self.seen[row, prompt[prompt < self.vocab_size]] = True

    def draw(self, logits: list[Tensor], position: Tensor, generated: Tensor) -> genarm_kernels.GuidedSample:
        """``logits``: M tensors [B, V_m]; ``position`` [B] int64; ``generated`` [B, t] int64."""
        sample = genarm_kernels.guided_sample(
            logits,
            self.guidance.weights,
            bias=self._bias(logits, generated),
            seed=self.guidance.seeds,
            position=position,
            return_logprobs=self.return_logprobs,
            vocab_size=self.vocab_size,
            **self.guidance.filters,
        )
        if self.seen is not None:
            self.seen.scatter_(1, sample.tokens[:, None], True)
        return sample

    def _bias(self, logits: list[Tensor], generated: Tensor) -> Tensor | None:
        """The caller's bias, plus what penalties and edits change about the scores."""
        bias = self.guidance.bias
        if self.seen is None and self.edit is None:
            return bias
        scores = edited = combined_scores(logits, self.guidance.weights, bias, self.vocab_size)
        if self.seen is not None:
            edited = repetition_penalty(edited, self.seen, self.guidance.repetition_penalty)
        if self.edit is not None:
            edited = self.edit(generated, edited.clone())
        self.raw_scores, self.edited_scores = scores, edited
        change = torch.where(scores == -math.inf, 0.0, edited - scores)
        change = change.masked_fill(edited == -math.inf, -math.inf)
        return change if bias is None else bias + change
