"""Where the search for a threshold begins: a value that it cannot be below, from what the group pass left.

    top_k    the k-th largest of the subgroups' peaks, each of which is a score
    top_p    the value under which all ids together have at most half of the mass that it may leave out

So every top_k up to the number S of subgroups that have a score is bounded, at every V. Without masks S is 8·G, up to 7
fewer where the last group has under 57 ids. About −S·ln(1 − k/S) of random scores reach the bound: k while k is small
beside S, 2·S at 7/8 of it, S·ln S at its end. With a larger top_k all ids do. One program per row reads 10 words per
group.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.sampling.arguments import Inputs
from genarm_kernels.sampling.combine import has_score_filter
from genarm_kernels.sampling.groups import (
    ANYWHERE,
    INFINITY,
    LOG2_E,
    LOWEST,
    SUBGROUPS,
    UNIT,
    Partials,
    aligned,
    filter_arguments,
    groups_block,
    inverse_temperature,
    load_partials,
)
from genarm_kernels.sampling.search import from_sortable, search_bits, sortable

WARPS = 4


class Bounds(NamedTuple):
    """What the search of a row begins with."""

    lower: Tensor  # [B] float32: the bound, +inf where there is nothing to search
    threshold: Tensor  # [B] float32: min-p's, −inf just in the rows without a filter
    counts: Tensor  # [B] int32 zeros, to count candidates with
    tops: Tensor  # [B] float32: the largest score
    totals: Tensor  # [B] float64: the mass of all scores, in units of 2⁻⁴² of the largest's


@triton.jit(do_not_specialize=["V", "G"], do_not_specialize_on_alignment=ANYWHERE)
def bound_kernel(
    temperature, top_k, top_p, min_p, peaks, sums, subgroup_peaks, lower, threshold, counts, tops, totals, V, G,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, MIN_P: tl.constexpr, G_BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row: the bound, +inf where there is nothing to search, and the min-p threshold."""
    row = tl.program_id(0).to(tl.int64)
    heat = tl.load(temperature + row)
    inverse = inverse_temperature(heat)
    g = tl.arange(0, G_BLOCK)
    row_peaks, row_sums = load_partials(peaks + row * G, sums + row * G, g, G)
    top = tl.max(row_peaks, 0)
    total = tl.sum(row_sums.to(tl.float64) * tl.exp2((row_peaks - top) * (inverse * LOG2_E)).to(tl.float64), 0)

    by_min_p, by_count, by_mass = top * 0.0 + LOWEST, top * 0.0 + LOWEST, top * 0.0 + LOWEST
    any_k, any_p = top != top, top != top
    on = has_score_filter(top_k, top_p, min_p, heat, row, V, TOP_K, TOP_P, MIN_P)
    if MIN_P:
        # min_p 0 gives −inf, which is off.
        by_min_p = tl.maximum(by_min_p, top + tl.log(tl.load(min_p + row)) / inverse)
    if TOP_K:
        k = tl.load(top_k + row)
        any_k = on & (k > 0) & (k < V)
        if any_k & (k <= G * SUBGROUPS):
            # Each of the k largest peaks is a score.
            places = tl.arange(0, G_BLOCK * SUBGROUPS)
            pointers = aligned(subgroup_peaks + row * (G * SUBGROUPS), places, SUBGROUPS)
            keys = sortable(tl.load(pointers, mask=places < G * SUBGROUPS, other=-INFINITY))
            low, end = sortable(by_count), sortable(top) + 1
            by_count = from_sortable(search_bits(keys, 1, 0, k.to(tl.float64), low, end))
    if TOP_P:
        p = tl.load(top_p + row)
        any_p = on & (p < 1.0)
        rest = 1.0 - p
        if any_p & (rest > 1e-5):
            # All ids below it together have at most half of the mass that top-p may leave out.
            share = tl.log(rest * total.to(tl.float32) / (2.0 * V)) / inverse
            by_mass = tl.maximum(top + share - tl.abs(top) * 2e-7, LOWEST)
    # Top-p's total is that of all of top-k's tokens, so with both only top-k's bound may be used.
    bound = tl.where(any_k, by_count, by_mass)
    bound = tl.where(any_p, bound, tl.maximum(bound, by_min_p))
    tl.store(lower + row, tl.where(any_k | any_p, bound, INFINITY))
    tl.store(threshold + row, tl.where(on, by_min_p, -INFINITY))
    tl.store(counts + row, 0)
    tl.store(tops + row, top)
    tl.store(totals + row, total * UNIT)


def bound(inputs: Inputs, partials: Partials) -> Bounds:
    """The bounds of rows whose groups are reduced."""
    B, like = inputs.batch_size, inputs.temperature
    found = Bounds(
        like.new_empty(B),
        like.new_empty(B),
        like.new_empty(B, dtype=torch.int32),
        like.new_empty(B),
        like.new_empty(B, dtype=torch.float64),
    )
    launch: Any = bound_kernel[(B,)]
    launch(
        like,
        *filter_arguments(inputs),
        partials.peaks,
        partials.sums,
        partials.subgroup_peaks,
        *found,
        inputs.vocab_size,
        inputs.groups,
        TOP_K=inputs.top_k is not None,
        TOP_P=inputs.top_p is not None,
        MIN_P=inputs.min_p is not None,
        G_BLOCK=groups_block(inputs.groups),
        num_warps=WARPS,
    )
    return found
