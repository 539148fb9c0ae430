"""Draws of a method's own: candidates by their scores, and choices among them, with noise that rows own."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

import genarm_kernels

from ..request.guidance import attempt_seeds
from .call import MethodRow


def top_candidates(scores: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The ``count`` largest of scores [R, V] -> values [R, k] and ids [R, k] int64, the largest first.

    Of equal scores the lower ids are taken and stand first, so that no row depends on another or on the device. NaN, in
    rows that have failed, counts as -inf.
    """
    count = min(count, scores.shape[1])
    scores = scores.masked_fill(scores.isnan(), -torch.inf)
    least = scores.topk(count).values[:, -1:]
    above, equal = scores > least, scores == least
    room = count - above.sum(1, keepdim=True)
    kept = above | (equal & (equal.cumsum(1) <= room))
    ids = kept.nonzero()[:, 1].view(-1, count)
    values, order = scores.gather(1, ids).sort(dim=1, descending=True, stable=True)
    return values, ids.gather(1, order)


def drawn(
    scores: Tensor, seeds: Tensor, positions: Tensor, temperature: float | Tensor = 1.0, top_k: int | Tensor = 0
) -> Tensor:
    """A column per row, [R] int64, drawn from softmax(scores / temperature) of scores [R, n] float32, with the noise of
    (seed, position), [R] int64 each. Temperature and top_k are numbers or [R]; temperature 0 takes the largest, the
    first of equals."""
    weights = torch.ones(1, device=scores.device)
    rows = scores.contiguous()
    return genarm_kernels.guided_sample([rows], weights, temperature, top_k, seed=seeds, position=positions).tokens


def choices(scores: Tensor, rows: Sequence[MethodRow], temperature: float | Tensor) -> list[int]:
    """The candidate that each row takes at its next token, by scores [R, k] float32: ``drawn`` with the rows' noise.
    ``temperature``: one, or [B] for the rows of the call."""
    seeds = torch.tensor([row.seed for row in rows], device=scores.device)
    positions = torch.tensor([row.position for row in rows], device=scores.device)
    own = temperature[[row.index for row in rows]] if isinstance(temperature, Tensor) else temperature
    return drawn(scores, seeds, positions, own).tolist()


def attempt_seed(seed: int, attempt: int) -> int:
    """The row seed of the ``attempt``-th try of a row, counted from 0."""
    return attempt_seeds(seed, attempt + 1)[attempt]
