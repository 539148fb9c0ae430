"""One draw from the guided distribution: the models' logits in, one token a row out."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from torch import Tensor

import genarm_kernels

from .state import State

# combined scores s [B, V] -> edited scores [B, V]
ScoreEdit = Callable[[Tensor], Tensor]


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


def draw(
    logits: list[Tensor], state: State, vocab_size: int, return_logprobs: bool = False, edit: ScoreEdit | None = None
) -> genarm_kernels.GuidedSample:
    """One token a row from M logits [B, V_m]. ``edit`` acts on the combined scores, as Hugging Face's processors do."""
    guidance = state.guidance
    weights, bias = guidance.weights, guidance.bias
    edits = state.seen is not None or edit is not None
    if edits:  # the edited scores stand for the whole combination
        weights, bias = torch.zeros_like(weights), _edited(logits, state, vocab_size, edit)
    sample = genarm_kernels.guided_sample(
        logits,
        weights,
        bias=bias,
        seed=guidance.seeds,
        position=state.positions,
        return_logprobs=return_logprobs,
        vocab_size=vocab_size,
        **guidance.filters,
    )
    if edits:
        sample = sample._replace(status=sample.status | bad_models(logits, guidance.weights, vocab_size))
    return sample


def _edited(logits: list[Tensor], state: State, vocab_size: int, edit: ScoreEdit | None) -> Tensor:
    """[B, V] float32 scores after the caller's bias, penalties and edits; what was excluded stays so."""
    guidance = state.guidance
    scores = edited = combined_scores(logits, guidance.weights, guidance.bias, vocab_size)
    if state.seen is not None:
        edited = repetition_penalty(edited, state.seen, guidance.repetition_penalty)
    if edit is not None:
        edited = edit(edited.clone())
    # +inf from a processor means "this one"; the sampler takes finite scores.
    highest = torch.finfo(torch.float32).max
    return edited.float().clamp(max=highest).masked_fill(scores == -math.inf, -math.inf)
