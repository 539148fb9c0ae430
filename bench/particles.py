"""What particles need between two steps: resampling, and cache rows that follow others. Their inputs and peers.

Half of a system's rows follow the other half, more than resampling at half the effective sample size usually moves.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from genarm_kernels import follow_rows, resample
from genarm_kernels.particles import cpu


@dataclass(frozen=True, slots=True)
class Population:
    """The inputs of a resampling: P systems of N particles, all of them due."""

    log_weights: Tensor  # [P, N] float64
    uniforms: Tensor  # [P] float64
    active: Tensor  # [P] bool
    below: Tensor  # [P] float64


def make_population(P: int, N: int, device: torch.device) -> Population:
    log_weights = torch.randn(P, N, dtype=torch.float64, device=device)
    ones = torch.ones(P, dtype=torch.float64, device=device)
    return Population(log_weights, torch.rand_like(ones), ones.bool(), ones)


def resampled(way: str) -> Callable[[Population], Tensor]:
    """The origins of a population's particles; ``torch`` is what runs on a CPU, operation by operation."""
    run = resample if way == "ours" else cpu.resample
    return lambda one: run(one.log_weights, one.uniforms, one.active, one.below)[0]


@dataclass(frozen=True, slots=True)
class Tails:
    """The inputs of rows that follow others: streams · N rows whose tails are ``tail`` tokens."""

    cache: Tensor  # [L, 2, R, H, T, D]
    origins: Tensor  # [R] int64
    starts: Tensor  # [R] int32
    lengths: Tensor  # [R] int32

    @property
    def moved_bytes(self) -> int:
        """What is read and written."""
        rows = int((self.origins != torch.arange(len(self.origins), device=self.origins.device)).sum())
        tail = int(self.lengths[0] - self.starts[0])
        L, two, _, H, _, D = self.cache.shape
        return 2 * rows * tail * L * two * H * D * self.cache.itemsize


def make_tails(layers: int, streams: int, N: int, H: int, D: int, start: int, tail: int, device: torch.device) -> Tails:
    R = streams * N
    cache = torch.zeros(layers, 2, R, H, start + tail, D, dtype=torch.bfloat16, device=device).normal_()
    slots = torch.arange(R, device=device).view(streams, N)
    origins = slots.where(torch.arange(N, device=device) < N // 2, slots - N // 2).flatten()
    places = torch.full((2, R), start, dtype=torch.int32, device=device)
    places[1] += tail
    return Tails(cache, origins, *places)


def followed(way: str, start: int) -> Callable[[Tails], Tensor]:
    """The cache after it; ``torch`` takes every row's tail from its origin, its own or not."""

    def by_ours(one: Tails) -> Tensor:
        follow_rows(one.cache, one.origins, one.starts, one.lengths)
        return one.cache

    def by_torch(one: Tails) -> Tensor:
        for layer in one.cache:  # what is on its way takes memory beside the cache: not all layers at once
            tails = layer[:, :, :, start:]
            tails.copy_(tails.index_select(1, one.origins))
        return one.cache

    return by_ours if way == "ours" else by_torch
