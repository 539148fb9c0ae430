"""One draw from the guided distribution: the models' logits in, one token per row out."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import replace
from typing import Protocol

import torch
from torch import Tensor

from genarm_kernels import GuidedSample
from genarm_kernels.sampling import ops
from genarm_kernels.sampling.arguments import Inputs, prepare

from ..request.guidance import Guidance
from .gate import gated_weights, guided_rows

# combined scores s [B, V] -> edited scores [B, V]
ScoreEdit = Callable[[Tensor], Tensor]
ALIGNED = 8  # elements; a row that starts at a multiple of so many is loaded in whole vectors


class Rows(Protocol):
    """What a draw reads beside logits: a state, or a view of it."""

    @property
    def guidance(self) -> Guidance:
        """Of R rows."""

    @property
    def positions(self) -> Tensor:
        """[R] int64, where the drawn tokens stand in the base's stream."""

    @property
    def seen(self) -> Tensor | None:
        """[R, V] bool, under a repetition penalty."""

    def note_guided(self, guided: Tensor) -> None:
        """Whether the draws, [R] bool, are guided, under a gate."""


class Draw:
    """The draws of one run. Its settings, the same tensors in every step, are checked with the first logits only.

    The vocabulary is the base's. Ids that another model lacks are −inf in it, so the sampler's rule on masks excludes
    them where that model has a weight, and nowhere else.

    ``captured``: their values may be others at the next replay, so none is read.
    """

    def __init__(
        self,
        state: Rows,
        vocab_size: int,
        return_logprobs: bool,
        return_normalizers: bool = False,
        captured: bool = False,
    ) -> None:
        self._state = state
        self._vocab_size = vocab_size
        self._kept = return_logprobs, return_normalizers
        self._captured = captured
        self._settings: Inputs | None = None
        self._wide: dict[int, Tensor] = {}  # model -> its logits with what it lacks behind them
        self._widths: dict[int, int] = {}  # model -> how many ids it has, where it lacks some

    def __call__(self, logits: list[Tensor], edit: ScoreEdit | None = None) -> GuidedSample:
        """Draw from M logits [B, V_m]. ``edit`` acts on the combined scores, as Hugging Face's processors do."""
        state = self._state
        logits = [self._widened(model, z) for model, z in enumerate(logits)]
        inputs, weights = self._checked(logits), self._weights(logits[0])
        if state.guidance.gate is not None:
            inputs = replace(inputs, weights=weights)
        edits = state.seen is not None or edit is not None
        if edits:  # the edited scores stand for the whole combination
            bias = self._edited(logits, weights, edit)
            inputs = replace(inputs, weights=torch.zeros_like(weights), bias=bias, normalizer_weights=weights)
        sample = (ops.guided_sample if self._captured else ops.sample)(inputs, *self._kept)
        if edits:
            sample = sample._replace(status=sample.status | bad_models(logits, weights, self._vocab_size))
        return sample

    def reset(self) -> None:
        """The settings' values have changed."""
        self._settings = None

    def _weights(self, base: Tensor) -> Tensor:
        """[B, M] the step's weights, the base's logits [B, ≥ V] being what they are."""
        guidance = self._state.guidance
        if guidance.gate is None:
            return guidance.weights
        guided = guided_rows(base, guidance.gate, self._vocab_size)
        self._state.note_guided(guided)
        return gated_weights(guidance.weights, guided)

    def _widened(self, model: int, logits: Tensor) -> Tensor:
        """Logits [B, V_m] -> at least V columns, in the same buffer in every step."""
        missing = self._vocab_size - logits.shape[1]
        if missing <= 0:
            return logits
        if model not in self._wide:
            rows = -(-self._vocab_size // ALIGNED) * ALIGNED
            with torch.inference_mode(False):  # the caller's next step may be outside of the mode this one is in
                self._wide[model] = logits.new_full((len(logits), rows), -math.inf)[:, : self._vocab_size]
            self._widths[model] = logits.shape[1]
        self._wide[model][:, : logits.shape[1]].copy_(logits)
        return self._wide[model]

    def _checked(self, logits: list[Tensor]) -> Inputs:
        if self._settings is None:
            guidance = self._state.guidance
            settings = prepare(
                logits,
                guidance.weights,
                bias=guidance.bias,
                seed=guidance.seeds,
                position=self._state.positions,
                vocab_size=self._vocab_size,
                **guidance.filters,
            )
            self._settings = replace(settings if self._captured else ops.settled(settings), logits=())
        return replace(self._settings, logits=tuple(logits))

    def _edited(self, logits: list[Tensor], weights: Tensor, edit: ScoreEdit | None) -> Tensor:
        """[B, V] float32 scores after the caller's bias, penalties and edits; what was excluded stays so."""
        guidance, seen = self._state.guidance, self._state.seen
        scores = edited = combined_scores(logits, weights, guidance.bias, self._vocab_size)
        if seen is not None:
            edited = repetition_penalty(edited, seen, guidance.repetition_penalty)
        if edit is not None:
            edited = edit(edited.clone())
        # +inf from a processor means "this one"; the sampler takes finite scores.
        highest = torch.finfo(torch.float32).max
        edited = edited.float().clamp(max=highest)
        kept = edited.masked_fill(scores == -math.inf, -math.inf)
        return self._with_forced(kept, edited) if self._widths and edit is not None else kept

    def _with_forced(self, kept: Tensor, edited: Tensor) -> Tensor:
        """Where the caller's code leaves nothing but ids that a used model lacks, such as a forced EOS: those."""
        start = torch.full_like(kept[:, :1], self._vocab_size)
        for model, width in self._widths.items():
            start = torch.where(self._state.guidance.weights[:, model, None] != 0, start.clamp(max=width), start)
        missing = torch.arange(self._vocab_size, device=kept.device) >= start
        nothing = (kept == -math.inf).all(1, keepdim=True)
        return torch.where(nothing & missing, edited, kept)


def combined_scores(logits: list[Tensor], weights: Tensor, bias: Tensor | None, vocab_size: int) -> Tensor:
    """s = bias + Σ w_m z_m, [B, V] float32, un-normalised; −inf where the base or any weighted model has −inf. Logits
    [B, ≥ V]."""
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
