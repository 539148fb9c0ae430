"""A group of 1,024 ids in one warp: how its values are loaded and summed.

    peak = max over the group of its values
    sum  = Σ over the group of 2^((value − peak) · rate)

A lane holds the same ids however they were loaded, and the sum is a fixed tree over the ids, so its bits do not depend
on the batch, the split, strides or alignment.
"""

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.sampling.arguments import GROUP_SIZE, MAX_INVERSE_TEMPERATURE, MIN_INVERSE_TEMPERATURE, Inputs

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"


GROUP = tl.constexpr(GROUP_SIZE)
# A group's parts, whose peaks filters go by: runs of 8 ids in turn, so that a last group of few ids has all of them.
SUBGROUPS = tl.constexpr(8)
RUN = tl.constexpr(8)
INFINITY = tl.constexpr(float("inf"))
# The peak of an empty group: finite, so that no difference of two peaks is −inf − (−inf).
LOWEST = tl.constexpr(-3.4028234663852886e38)
LOG2_E = tl.constexpr(1.4426950408889634)
# What is loaded or stored value by value, or by a hint of its own: at another alignment the same code would be compiled
# again. Of tensors in a tuple Triton looks at it all the same.
ANYWHERE = [
    "weights", "shares", "bias", "scores", "temperature", "top_k", "top_p", "min_p", "seeds", "positions",
    "base_threshold", "threshold", "logprobs", "model_logprobs", "log_normalizers",
]  # fmt: skip
# Masses as integers: a row's largest is so many units. 2²⁰ ids at most keep their sum within 63 bits.
UNIT = tl.constexpr(2.0**42)
_MAX_INVERSE = tl.constexpr(MAX_INVERSE_TEMPERATURE)
_MIN_INVERSE = tl.constexpr(MIN_INVERSE_TEMPERATURE)


@triton.jit
def inverse_temperature(temperature):
    """1/T, 1 for T = 0. A negative or NaN T gives NaN, which excludes every token."""
    inverse = 1.0 / tl.where(temperature == 0.0, 1.0, temperature)
    # NaN compares false on either side, and passes.
    inverse = tl.where(inverse > _MAX_INVERSE, _MAX_INVERSE, inverse)
    inverse = tl.where((inverse >= 0.0) & (inverse < _MIN_INVERSE), _MIN_INVERSE, inverse)
    return tl.where(temperature < 0.0, float("nan"), inverse)


@triton.jit
def load_weights(weights, stride, M: tl.constexpr):
    """A row's weights as a tuple, and whether one is negative."""
    loaded = ()
    negative = False
    for m in tl.static_range(M):
        weight = tl.load(weights + m * stride)
        loaded = loaded + (weight,)
        negative = negative | (weight < 0.0)
    return loaded, negative


@triton.jit
def aligned(pointer, ids, N: tl.constexpr):
    """Pointers to N consecutive ids, the first at a multiple of 16 bytes."""
    return tl.max_contiguous(tl.multiple_of(pointer + ids, 16), N)


@triton.jit
def join_halves(parts, HALF: tl.constexpr):
    """A tuple of 2·HALF blocks, joined in pairs (i, i + HALF): a block's values become neighbours of its partner's."""
    joined = ()
    for i in tl.static_range(HALF):
        joined = joined + (tl.join(parts[i], parts[i + HALF]),)
    return joined


@triton.jit
def load_group(pointer, first, weight, ALWAYS: tl.constexpr, WIDE: tl.constexpr, LANE: tl.constexpr):
    """The 1,024 values from id `first` on; zeros, and not read, at weight 0 unless ALWAYS.

    A lane holds LANE consecutive ids either way: from one load where the pointer is a multiple of 16 bytes (WIDE), else
    from one load per id.
    """
    COUNT: tl.constexpr = GROUP if WIDE else GROUP // LANE
    mask = None if ALWAYS else tl.full([COUNT], 0.0, tl.float32) + weight != 0.0
    other = None if ALWAYS else 0.0
    if WIDE:
        values = tl.load(aligned(pointer, first + tl.arange(0, GROUP), GROUP), mask=mask, other=other)
    else:
        pointers = pointer + first + LANE * tl.arange(0, COUNT)
        parts = ()
        for place in tl.static_range(LANE):
            parts = parts + (tl.load(pointers + place, mask=mask, other=other),)
        if LANE == 8:
            parts = join_halves(parts, 4)
        values = tl.reshape(join_halves(join_halves(parts, 2), 1)[0], [GROUP])
    return values


@triton.jit
def tree_sum(values, LANE: tl.constexpr):
    """Σ of values [N] by a fixed tree: the LANE consecutive ids of a lane, its places 32·LANE apart, the lanes."""
    PLACES: tl.constexpr = values.shape[0] // (32 * LANE)
    values = tl.reshape(values, [PLACES, 32, LANE])
    for _ in tl.static_range(3):
        if values.shape[2] > 1:
            first, second = tl.split(tl.reshape(values, [PLACES, 32, values.shape[2] // 2, 2]))
            values = first + second
    values = tl.trans(tl.reshape(values, [PLACES, 32]))
    for _ in tl.static_range(5):
        if values.shape[1] > 1:
            first, second = tl.split(tl.reshape(values, [32, values.shape[1] // 2, 2]))
            values = first + second
    return tl.sum(tl.reshape(values, [32]), 0)


@triton.jit
def empty_group():
    """The peak and sum of no values."""
    return tl.full([], LOWEST, tl.float32), tl.full([], 0.0, tl.float32)


@triton.jit
def add_block(peak, total, values, rate, LANE: tl.constexpr):
    """A group's peak and Σ 2^((value − peak) · rate) with one more block of values."""
    top = tl.maximum(peak, tl.max(values, 0))
    return top, total * tl.exp2((peak - top) * rate) + tree_sum(tl.exp2((values - top) * rate), LANE)


def starts_rows_at_16_bytes(*tensors: Tensor) -> bool:
    """Whether every row of every tensor does, so that wide loads may be taken."""
    return all(
        t.data_ptr() % 16 == 0 and (t.shape[0] == 1 or t.stride(0) * t.element_size() % 16 == 0) for t in tensors
    )


def row_arguments(inputs: Inputs) -> tuple[Any, ...]:
    """What every kernel that combines scores takes first."""
    bias = inputs.temperature if inputs.bias is None else inputs.bias
    return (
        inputs.logits,
        tuple(z.stride(0) for z in inputs.logits),
        inputs.weights,
        inputs.weights.stride(0),
        inputs.weights.stride(1),
        bias,
        bias.stride(0),
        inputs.temperature,
    )


def filter_arguments(inputs: Inputs) -> tuple[Tensor, ...]:
    """top_k, top_p and min_p; where one is off, some tensor."""
    return tuple(inputs.temperature if x is None else x for x in (inputs.top_k, inputs.top_p, inputs.min_p))


def share_argument(inputs: Inputs) -> tuple[Tensor]:
    """Where a kernel finds the models' shares in log_normalizers that are not their weights: [B, M] side by side."""
    shares = inputs.normalizer_weights
    return (inputs.temperature if shares is None else shares.contiguous(),)


def lane_width(*logits: Tensor) -> int:
    """Consecutive ids of a lane: what it loads of the widest logits in 16 bytes."""
    return 16 // max(z.element_size() for z in logits)


class Partials(NamedTuple):
    """G groups per row; what was not asked for has no elements."""

    peaks: Tensor  # [B, G] float32
    sums: Tensor  # [B, G] float32
    bits: Tensor  # [B, G] int32: bit m where model m has a NaN or +inf in the group
    unfiltered_peaks: Tensor  # [B, G] float32, before the base's filters; with such filters only
    unfiltered_sums: Tensor  # [B, G] float32
    model_peaks: Tensor  # [B, M, G] float32; with log-probs or normalisers only
    model_sums: Tensor  # [B, M, G] float32
    subgroup_peaks: Tensor  # [B, 8·G] float32, −inf where no score is; in rows with a score filter only


@triton.jit
def store_partials(partials, at, peak, total, bits, all_peak, all_total, BASE_FILTER: tl.constexpr):
    tl.store(partials.peaks + at, peak)
    tl.store(partials.sums + at, total)
    tl.store(partials.bits + at, bits)
    if BASE_FILTER:
        tl.store(partials.unfiltered_peaks + at, all_peak)
        tl.store(partials.unfiltered_sums + at, all_total)


@triton.jit
def store_model(partials, at, peak, total):
    tl.store(partials.model_peaks + at, peak)
    tl.store(partials.model_sums + at, total)


@triton.jit
def subgroup_peaks(values):
    """The largest of each subgroup -> [8]. values: a multiple of 64 of a group's."""
    RUNS: tl.constexpr = values.shape[0] // (SUBGROUPS * RUN)
    return tl.max(tl.max(tl.reshape(values, [RUNS, SUBGROUPS, RUN]), 2), 0)


@triton.jit
def store_subgroups(partials, at, peaks):
    tl.store(aligned(partials.subgroup_peaks, at * SUBGROUPS + tl.arange(0, SUBGROUPS), SUBGROUPS), peaks)


@triton.jit
def load_partials(peaks, sums, g, G):
    """Peaks and sums of a row's groups; beyond G they are those of empty groups."""
    mask = g < G
    return tl.load(peaks + g, mask=mask, other=LOWEST), tl.load(sums + g, mask=mask, other=0.0)


def groups_block(G: int) -> int:
    """Places for a row's groups in one block, which are a power of two."""
    return max(16, int(triton.next_power_of_2(G)))
