"""Oracles of resampling and of following, literally: points on a line of exact fractions; rows copied one by one."""

import math
from fractions import Fraction

import torch
from torch import Tensor

from genarm_kernels.particles.resample import Resampled


def resample(log_weights: Tensor, uniforms: Tensor, active: Tensor, below: float | Tensor) -> Resampled:
    """The oracle of genarm_kernels.resample, one system after the other; sums of weights are exact."""
    P, N = log_weights.shape
    limits = below.tolist() if isinstance(below, Tensor) else [below] * P
    origins, kept, log_means = torch.arange(N).repeat(P, 1), log_weights.clone().cpu(), []
    for p, (logs, u, on, limit) in enumerate(
        zip(log_weights.tolist(), uniforms.tolist(), active.tolist(), limits, strict=True)
    ):
        log_means.append(0.0)
        if not on or any(math.isnan(one) or one == math.inf for one in logs) or max(logs) == -math.inf:
            continue
        weights = [math.exp(one - max(logs)) for one in logs]
        total = math.fsum(weights)
        if not (total**2 / math.fsum(w * w for w in weights) < limit * N or limit >= 1):
            continue
        if not 0 <= u < 1:
            log_means[p] = math.nan
            continue
        origins[p] = torch.tensor(slots(offspring(weights, u)))
        kept[p] = 0.0
        log_means[p] = max(logs) + math.log(total) - math.log(N)
    device = log_weights.device
    means = torch.tensor(log_means, dtype=torch.float64, device=device)
    return Resampled(origins.to(device), kept.to(device), means)


def offspring(weights: list[float], u: float) -> list[int]:
    """How many of the points (u + m)/N each particle's piece of [0, 1) holds."""
    N, total = len(weights), sum(map(Fraction, weights))
    counts, place, end = [0] * N, 0, Fraction(weights[0])
    for m in range(N):
        point = (Fraction(u) + m) / N * total
        while point >= end:
            place += 1
            end += Fraction(weights[place])
        counts[place] += 1
    return counts


def slots(counts: list[int]) -> list[int]:
    """Whose state each slot goes on with: its own where that has offspring, else the next of the surplus."""
    surplus = iter([i for i, count in enumerate(counts) for _ in range(count - 1)])
    return [i if count else next(surplus) for i, count in enumerate(counts)]


def follow_rows(cache: Tensor, origins: Tensor, starts: Tensor, lengths: Tensor) -> Tensor:
    """The cache as it should be; the one given stays as it is."""
    expected = cache.clone()
    for row, origin in enumerate(origins.tolist()):
        for token in range(int(starts[row]), int(lengths[row])):
            expected[:, :, row, :, token] = cache[:, :, origin, :, token]
    return expected
