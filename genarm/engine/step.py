"""One draw from the guided distribution: the models' logits in, one token a row out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

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


def bad_models(logits: list[Tensor], weights: Tensor, vocab_size: int) -> Tensor:
    """[B] int32: bit m where model m has a weight, and NaN or +inf among its logits."""
    status = torch.zeros(len(weights), dtype=torch.int32, device=weights.device)
    for index, row in enumerate(logits):
        bad = ~(row[:, :vocab_size].amax(1) < math.inf) & (weights[:, index] != 0)
        status |= bad.to(torch.int32) << index
    return status


def repetition_penalty(scores: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Scores of tokens already ``seen`` [B, V] divided by the penalty where positive, multiplied where negative.

    Source: Keskar et al. 2019 (CTRL), as in Hugging Face's RepetitionPenaltyLogitsProcessor.
    """
    factor = penalty[:, None] if isinstance(penalty, Tensor) else penalty
    return torch.where(seen, torch.where(scores < 0, scores * factor, scores / factor), scores)


@dataclass(slots=True)
class Sampler:
    """Draws one token a row. B rows, V ids. ``edit`` acts on the combined scores, as Hugging Face's processors do."""

    guidance: Guidance
    vocab_size: int
    return_logprobs: bool = False
    edit: ScoreEdit | None = None
    seen: Tensor | None = None  # [B, V] bool, kept only under a repetition penalty

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
        weights, bias = self.guidance.weights, self.guidance.bias
        edits = self.seen is not None or self.edit is not None
        if edits:  # the edited scores stand for the whole combination
            weights, bias = torch.zeros_like(weights), self._edit(logits, generated)
        sample = genarm_kernels.guided_sample(
            logits,
            weights,
            bias=bias,
            seed=self.guidance.seeds,
            position=position,
            return_logprobs=self.return_logprobs,
            vocab_size=self.vocab_size,
            **self.guidance.filters,
        )
        if self.seen is not None:
            self.seen.scatter_(1, sample.tokens[:, None], True)
        if edits:
            sample = sample._replace(status=sample.status | bad_models(logits, self.guidance.weights, self.vocab_size))
        return sample

    def _edit(self, logits: list[Tensor], generated: Tensor) -> Tensor:
        """[B, V] float32 scores after the caller's bias, penalties and edits; what was excluded stays so."""
        scores = edited = combined_scores(logits, self.guidance.weights, self.guidance.bias, self.vocab_size)
        if self.seen is not None:
            edited = repetition_penalty(edited, self.seen, self.guidance.repetition_penalty)
        if self.edit is not None:
            edited = self.edit(generated, edited.clone())
        # +inf from a processor means "this one"; the sampler takes finite scores.
        highest = torch.finfo(torch.float32).max
        return edited.float().clamp(max=highest).masked_fill(scores == -math.inf, -math.inf)
