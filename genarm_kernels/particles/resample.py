"""Systematic resampling of P systems of N weighted particles, where a particle that lives on keeps its slot.

    w_i = exp(log w_i − peak)         ESS = (Σ w)² / Σ w²          resampled where ESS < below · N, or below ≥ 1
    k_i = ceil(N · C_i − u)           C the running sums over their last: points (u + m)/N lie before C_i, one uniform u
    offspring_i = k_i − k_{i−1}       of expectation N · w_i / Σ w
    log mean = log Σ w + peak − log N

Weights are summed as whole units of 2⁻⁵⁰ of the system's largest: a sum's order then changes nothing, and a particle
without weight has no offspring. Particles with offspring stay; their surplus, lowest index first, goes to the slots
without, lowest first. So every origin is a slot that stays as it is, and copies in place hurt none another.

One program per system, its particles in registers; it reads 8·N bytes and writes 16·N.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.particles import cpu

MOST_PARTICLES = 4096
UNIT = tl.constexpr(2.0**cpu.UNIT_BITS)
INFINITY = tl.constexpr(float("inf"))
# A lane has 4 particles, and up to 16 in the largest systems: with more warps its registers would not do.
LANE, MOST_WARPS = 4, 8


@triton.jit
def points_before(ends, all_units, N, u):
    """How many of the points (u + m)/N lie before each end: ceil(N · end − u) without a rounding of u."""
    scaled = ends.to(tl.float64) * N / all_units.to(tl.float64)
    whole = tl.floor(scaled)
    points = whole.to(tl.int32) + (scaled - whole > u).to(tl.int32)
    return tl.where(ends == all_units, N, tl.minimum(points, N))


@triton.jit
def systematic_origins(weights, u, slots, N, BLOCK: tl.constexpr, HALVINGS: tl.constexpr):
    """Whose state each slot goes on with. Slots behind N are of no weight, and free behind all others."""
    units = (weights * UNIT).to(tl.int64)
    ends = tl.cumsum(units, 0)
    all_units = tl.sum(units, 0)
    offspring = points_before(ends, all_units, N, u) - points_before(ends - units, all_units, N, u)
    free = offspring == 0
    surplus = tl.cumsum(tl.maximum(offspring - 1, 0), 0)
    nth = tl.cumsum(free.to(tl.int32), 0) - 1
    # The n-th slot that is free goes to the particle whose surplus holds the n-th: as many end at or before n.
    found = slots * 0
    for halving in tl.static_range(HALVINGS):
        step = BLOCK >> (halving + 1)
        found += tl.where(tl.gather(surplus, found + (step - 1), 0) <= nth, step, 0)
    return tl.where(free, found, slots)


@triton.jit(do_not_specialize=["N"], do_not_specialize_on_alignment=["log_weights", "uniforms", "active", "below"])
def resample_kernel(
    log_weights, uniforms, active, below, origins, new_weights, log_means, N,
    BLOCK: tl.constexpr, HALVINGS: tl.constexpr,
):  # fmt: skip
    """One program per system; BLOCK = 2 ** HALVINGS."""
    system = tl.program_id(0).to(tl.int64)
    slots = tl.arange(0, BLOCK)
    inside = slots < N
    values = tl.load(log_weights + system * N + slots, mask=inside, other=-INFINITY)
    u = tl.load(uniforms + system)
    limit = tl.load(below + system)
    # NaN compares false.
    finite = values < INFINITY
    readable = tl.where(finite, values, -INFINITY)
    peak = tl.max(readable, 0)
    peak = tl.where(peak > -INFINITY, peak, 0.0)
    weights = tl.exp(readable - peak)
    total = tl.sum(weights, 0)
    # Of a system without weight 0/0, which compares false.
    size = total * total / tl.sum(weights * weights, 0)
    due = (tl.load(active + system) != 0) & (tl.min(finite.to(tl.int32), 0) != 0) & (total > 0.0)
    due = due & ((size < N * limit) | (limit >= 1.0))
    sound = (u >= 0.0) & (u < 1.0)
    origin = slots
    if due & sound:
        origin = systematic_origins(weights, u, slots, N, BLOCK, HALVINGS)
        values = tl.zeros([BLOCK], tl.float64)
    mean = tl.where(sound, peak + tl.log(total / N), float("nan"))
    tl.store(origins + system * N + slots, origin.to(tl.int64), mask=inside)
    tl.store(new_weights + system * N + slots, values, mask=inside)
    tl.store(log_means + system, tl.where(due, mean, 0.0))


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
        ValueError: shapes, dtypes or devices that do not fit together, a `below` that is NaN, or on a GPU more than
            4,096 particles of one system.

    Source: Kitagawa 1996, Monte Carlo filter and smoother for non-Gaussian nonlinear state space models; Douc, Cappé,
    Moulines 2005, Comparison of resampling schemes for particle filtering; Kong, Liu, Wong 1994 for the sample size.
    """
    _check(log_weights, uniforms, active, below)
    log_weights = log_weights.contiguous()
    if not (log_weights.is_cuda or INTERPRETED):
        return Resampled(*cpu.resample(log_weights, uniforms, active, below))
    P, N = log_weights.shape
    if N > MOST_PARTICLES:
        raise ValueError(f"systems have {N} particles: on a GPU expected at most {MOST_PARTICLES}; split them up")
    if not isinstance(below, Tensor):
        below = torch.full((P,), below, dtype=torch.float64, device=log_weights.device)
    result = Resampled(
        torch.empty((P, N), dtype=torch.int64, device=log_weights.device),
        torch.empty_like(log_weights),
        log_weights.new_empty(P),
    )
    if P:
        with on_device(log_weights.device):
            _launch(log_weights, uniforms.contiguous(), active.contiguous(), below.contiguous(), result)
    return result


def _launch(log_weights: Tensor, uniforms: Tensor, active: Tensor, below: Tensor, result: Resampled) -> None:
    P, N = log_weights.shape
    block = max(triton.next_power_of_2(N), 32)
    launch: Any = resample_kernel[(P,)]
    launch(
        log_weights, uniforms, active, below, *result, N,
        BLOCK=block, HALVINGS=block.bit_length() - 1, num_stages=1,
        num_warps=min(max(block // (32 * LANE), 1), MOST_WARPS),
    )  # fmt: skip


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
