"""Systematic resampling of P systems of N weighted particles, where a particle that lives on keeps its slot.

    w_i = exp(log w_i − peak)         ESS = (Σ w)² / Σ w²          resampled where ESS < below · N, or below ≥ 1
    k_i = ceil(N · C_i − u)           C the running sums over their last: points (u + m)/N lie before C_i, one uniform u
    offspring_i = k_i − k_{i−1}       of expectation N · w_i / Σ w
    log mean = log Σ w + peak − log N

Weights are summed as whole units of 2⁻⁵⁰ of the system's largest: a sum's order then changes nothing, and a particle
without weight has no offspring. Particles with offspring stay; their surplus, lowest index first, goes to the slots
without, lowest first. So every origin is a slot that stays as it is, and copies in place hurt none another.
"""

from typing import NamedTuple

import torch
from torch import Tensor

from genarm_kernels.particles import cpu


class Resampled(NamedTuple):
    """Systems of particles after resampling; those that were not resampled are as before."""

    origins: Tensor  # [P, N] int64: whose state each slot goes on with, within its system
    log_weights: Tensor  # [P, N] float64: 0 where resampled
    log_means: Tensor  # [P] float64: log of the mean weight that resampling took off every particle; 0 where none did


def resample(log_weights: Tensor, uniforms: Tensor, active: Tensor, below: float | Tensor) -> Resampled:
    """Resample the systems whose effective sample size is low, with one uniform per system.

    Args:
        log_weights: [P, N] float64, of any scale. −inf is a particle that is dead: it gets no offspring.
        uniforms: [P] float64 in [0, 1).
        active: [P] bool: systems that may be resampled.
        below: a system is resampled when its effective sample size is under below · N; from 1 on always, at 0 never. A
            number, or [P] float64.

    Returns:
        Resampled. A system stays as it is, with a log mean of 0, where it is not active, where its weights are even
        enough, where all its particles are dead, and where a log-weight is NaN or +inf. Nothing is read back, so a
        uniform that is not in [0, 1) is no error: its system, if due, stays as it is with a log mean of NaN.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together, or a `below` that is NaN.

    Source: Kitagawa 1996, Monte Carlo filter and smoother for non-Gaussian nonlinear state space models; Douc, Cappé,
    Moulines 2005, Comparison of resampling schemes for particle filtering; Kong, Liu, Wong 1994 for the sample size.
    """
    _check(log_weights, uniforms, active, below)
    log_weights, uniforms = log_weights.contiguous(), uniforms.contiguous()
    return Resampled(*cpu.resample(log_weights, uniforms, active, below))


def _check(log_weights: Tensor, uniforms: Tensor, active: Tensor, below: float | Tensor) -> None:
    if log_weights.ndim != 2 or log_weights.dtype != torch.float64 or not log_weights.shape[1]:
        raise ValueError(
            f"log_weights is {log_weights.dtype} {list(log_weights.shape)}: expected float64 [P, N], N ≥ 1 particles "
            "of each system"
        )
    P = len(log_weights)
    per_system = [("uniforms", uniforms, torch.float64), ("active", active, torch.bool)]
    if isinstance(below, Tensor):
        per_system.append(("below", below, torch.float64))
    elif below != below:
        raise ValueError("below is NaN: expected the share of N under which a system is resampled, such as 0.5")
    for name, values, dtype in per_system:
        if values.shape != (P,) or values.dtype != dtype:
            raise ValueError(f"{name} is {values.dtype} {list(values.shape)}: expected {dtype} [{P}], one per system")
        if values.device != log_weights.device:
            raise ValueError(f"{name} is on {values.device} and log_weights on {log_weights.device}: move one of them")
