"""Systems of particles while they decode: weights, and which particles go on, on the device.

The guided draw is a proposal q(y_t) = exp(s_t / T) / Z_t, so that answers drawn from it and weighted by Π_t Z_t are
drawn from the product over whole answers as the number of particles grows. Where weights have become uneven a system is
resampled: the mean weight goes into its evidence, and the weights start anew. The evidence Ẑ is then unbiased.

Source: Del Moral, Doucet and Jasra, "Sequential Monte Carlo samplers", 2006; systematic resampling: Kitagawa, 1996.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

import genarm_kernels
from genarm_kernels import noise

from ..request.particles import Particles


@dataclass(slots=True)
class Population:
    """P systems of N particles, the first P·N rows of B."""

    log_weights: Tensor  # [P, N] float64, since the last resampling
    log_evidence: Tensor  # [P] float64, log Π of the mean weights of the resamplings so far
    uniforms: Tensor  # [P, n] float64, one per step
    origins: Tensor  # [B] int64, where each row's text came from in the last step
    counts: Tensor  # [B] int64, tokens of each row
    last: Tensor  # [1] int64, tokens at most: there are no more weights to come
    every: Tensor  # [1] int64
    below: Tensor  # [P] float64, of N
    bonus: Tensor  # [1] float64, nats per token

    def weigh(self, gains: Tensor, going_on: Tensor, live: Tensor) -> None:
        """Take a step's log-normalisers, [B] float32, of rows that were ``going_on`` before it, [B] bool. The ``live``
        ones [B] have got a token."""
        P, N = self.log_weights.shape
        gained = torch.where(going_on, gains.double() + self.bonus, 0.0)
        self.log_weights += gained[: P * N].view(P, N)
        self.counts += live

    def resample(self, going_on: Tensor, step: Tensor) -> Tensor:
        """After ``step`` [1] tokens, with rows that are still ``going_on`` [B] bool -> ``origins``."""
        P, N = self.log_weights.shape
        is_time = (step < self.last) & (step % self.every == 0)
        active = going_on[: P * N].view(P, N).any(1) & is_time
        uniforms = self.uniforms.index_select(1, step - 1)[:, 0]
        found = genarm_kernels.resample(self.log_weights, uniforms, active, self.below)
        self.log_weights.copy_(found.log_weights)
        self.log_evidence += found.log_means
        starts = torch.arange(P, device=step.device)[:, None] * N
        self.origins[: P * N].copy_((found.origins + starts).flatten())
        return self.origins


def new_population(particles: Particles, seeds: Tensor, live: int, limit: int, width: int) -> Population:
    """The systems whose particles are the first ``live`` of the rows with ``seeds`` [B] int64, before the first of at
    most ``limit`` tokens; there are uniforms for ``width``."""
    N, device = particles.count, seeds.device
    P = live // N
    own = seeds[: P * N : N]
    steps, zero = torch.arange(width, device=device), seeds.new_zeros(1, 1)
    return Population(
        log_weights=torch.zeros(P, N, dtype=torch.float64, device=device),
        log_evidence=torch.zeros(P, dtype=torch.float64, device=device),
        uniforms=noise.uniforms(own.repeat_interleave(width), steps.repeat(P), zero, noise.RESAMPLE).view(P, width),
        origins=torch.arange(len(seeds), device=device),
        counts=torch.zeros_like(seeds),
        last=torch.full((1,), limit, device=device),
        every=torch.full((1,), particles.resample_every, device=device),
        below=torch.full((P,), particles.resample_below, dtype=torch.float64, device=device),
        bonus=torch.full((1,), particles.length_bonus, dtype=torch.float64, device=device),
    )
