"""Filters as thresholds, found without a sort: a token stays where its value ≥ the row's threshold, so ties stay.

    base filters, on the base's own distribution at temperature 1 (threshold on the base's logit):
        base_min_p   p0(v) ≥ base_min_p · max p0
        base_top_p   the mass of tokens strictly more likely than v is < base_top_p
    score filters, on softmax(s / T) (threshold on s, which orders as s / T does):
        top_k        s_v ≥ the k-th largest s
        top_p        the same rule as above, among what top-k left and renormalised
        min_p        p(v) ≥ min_p · max p

min-p needs the row's peak only. The other two are a search (search.py): the largest t with Σ_{s_v ≥ t} u_v ≥ target,
where u counts tokens or is their mass. Small kernels for the rows that have a filter, over the scores that the group
pass stored:

    bound    from the groups' peaks and sums, a value that the threshold cannot be below
    gather   the candidates, scores at least the bound, from the groups whose peak reaches it
    select   the threshold, among the candidates
    regroup  the groups' peaks and sums again, of what is left

Bytes: V·4 per row written by the group pass, and read twice as far as groups reach the bound and the threshold;
candidates written once, and read by every pass of the search.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.sampling.arguments import GROUP_SIZE, Inputs
from genarm_kernels.sampling.combine import has_score_filter, reduce_groups
from genarm_kernels.sampling.groups import (
    GROUP,
    INFINITY,
    LOG2_E,
    LOWEST,
    UNIT,
    Partials,
    add_block,
    aligned,
    empty_group,
    groups_block,
    inverse_temperature,
    load_partials,
)
from genarm_kernels.sampling.search import from_sortable, mass_from, search, search_bits, sortable

CAPACITY = 4096
BOUND_WARPS = 4
SELECT_WARPS = 8


@triton.jit(do_not_specialize=["V", "G"])
def bound_kernel(
    temperature, filters, peaks, sums, lower, threshold, counts, tops, totals, V, G,
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
    if MIN_P:
        # min_p 0 gives −inf, which is off.
        by_min_p = tl.maximum(by_min_p, top + tl.log(tl.load(filters[2] + row)) / inverse)
    if TOP_K:
        k = tl.load(filters[0] + row)
        any_k = (k > 0) & (k < V)
        if any_k & (k <= G):
            # Each of the k largest peaks is a score.
            keys = tl.where(g < G, sortable(row_peaks), 0)
            ones = tl.where(g < G, 1, 0)
            low, end = sortable(by_count), sortable(top) + 1
            by_count = from_sortable(search_bits(keys, ones, 0, k.to(tl.float64), low, end))
    if TOP_P:
        p = tl.load(filters[1] + row)
        any_p = p < 1.0
        rest = 1.0 - p
        if any_p & (rest > 1e-5):
            # All ids below it together have at most half of the mass that top-p may leave out.
            share = tl.log(rest * total.to(tl.float32) / (2.0 * V)) / inverse
            by_mass = tl.maximum(top + share - tl.abs(top) * 2e-7, LOWEST)
    on = has_score_filter(filters, heat, row, V, TOP_K, TOP_P, MIN_P)
    any_k, any_p = any_k & on, any_p & on
    # Top-p's total is that of all of top-k's tokens, so with both only top-k's bound may be used.
    bound = tl.where(any_k, by_count, by_mass)
    bound = tl.where(any_p, bound, tl.maximum(bound, by_min_p))
    tl.store(lower + row, tl.where(any_k | any_p, bound, INFINITY))
    tl.store(threshold + row, tl.where(on, by_min_p, -INFINITY))
    tl.store(counts + row, 0)
    tl.store(tops + row, top)
    tl.store(totals + row, total * UNIT)


@triton.jit(do_not_specialize=["G"])
def gather_kernel(scores, peaks, lower, counts, candidates, G):
    """Program (row, group): append the group's scores that reach the bound to the row's candidates, in any order."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1)
    bound = tl.load(lower + row)
    if tl.load(peaks + row * G + g) >= bound:
        at = row * (G * GROUP)
        values = tl.load(aligned(scores + at, g * GROUP + tl.arange(0, GROUP), GROUP))
        kept = (values >= bound).to(tl.int32)
        first = tl.atomic_add(counts + row, tl.sum(kept, 0))
        tl.store(candidates + at + first + tl.cumsum(kept, 0) - 1, values, mask=kept != 0)


@triton.jit(do_not_specialize=["V", "G"])
def select_kernel(
    candidates, counts, lower, tops, totals, temperature, filters, shortlists, threshold, V, G,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, CAPACITY: tl.constexpr,
):  # fmt: skip
    """One program per row: raise the threshold to those of top-k and top-p."""
    row = tl.program_id(0).to(tl.int64)
    bound = tl.load(lower + row)
    if bound < INFINITY:
        n = tl.load(counts + row)
        top = tl.load(tops + row)
        rate = inverse_temperature(tl.load(temperature + row)) * LOG2_E
        candidates += row * (G * GROUP)
        shortlist = shortlists + row * CAPACITY
        low, end = sortable(bound), sortable(top) + 1
        total = tl.load(totals + row)
        if bound == LOWEST:
            # Every id is a candidate, and their masses add up more exactly than the groups' sums.
            total = mass_from(candidates, n, bound, top, rate).to(tl.float64)
        lowest = tl.load(threshold + row)
        if TOP_K:
            k = tl.load(filters[0] + row)
            if (k > 0) & (k < V):
                low = search(candidates, n, low, end, k.to(tl.float64), top, rate, shortlist, CAPACITY, False)
                lowest = tl.maximum(lowest, from_sortable(low))
                total = mass_from(candidates, n, from_sortable(low), top, rate).to(tl.float64)
        if TOP_P:
            p = tl.load(filters[1] + row)
            if p < 1.0:
                # At least one unit, so that the largest always stays.
                target = tl.maximum(total * p.to(tl.float64), 1.0)
                low = search(candidates, n, low, end, target, top, rate, shortlist, CAPACITY, True)
                lowest = tl.maximum(lowest, from_sortable(low))
        tl.store(threshold + row, lowest)


@triton.jit(do_not_specialize=["G"])
def regroup_kernel(scores, threshold, temperature, peaks, sums, G):
    """Program (row, group): the group's peak and sum again, of the scores ≥ the row's threshold."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1)
    lowest = tl.load(threshold + row)
    at = row * G + g
    if lowest > -INFINITY:
        peak, total = empty_group()
        if tl.load(peaks + at) >= lowest:
            values = tl.load(aligned(scores + row * (G * GROUP), g * GROUP + tl.arange(0, GROUP), GROUP))
            rate = inverse_temperature(tl.load(temperature + row)) * LOG2_E
            peak, total = add_block(peak, total, tl.where(values >= lowest, values, -INFINITY), rate, 4)
        tl.store(peaks + at, peak)
        tl.store(sums + at, total)


def base_threshold(inputs: Inputs) -> Tensor:
    """Base logits below it are filtered out -> [B], −inf just where both base filters are off."""
    base = replace(
        inputs,
        logits=inputs.logits[:1],
        weights=torch.ones_like(inputs.weights[:, :1]),
        bias=None,
        normalizer_weights=None,
        temperature=torch.ones_like(inputs.temperature),
        top_k=None,
        top_p=inputs.base_top_p,
        min_p=inputs.base_min_p,
    )
    scores = None if base.top_p is None else new_scores(inputs)
    return score_threshold(base, reduce_groups(base, scores=scores), scores)


def new_scores(inputs: Inputs) -> Tensor:
    return inputs.temperature.new_empty(inputs.batch_size, inputs.groups * GROUP_SIZE)


def score_threshold(inputs: Inputs, partials: Partials, scores: Tensor | None) -> Tensor:
    """Scores [B, G·1024] and their partials -> [B]; −inf just in the rows without a filter. None will do for min-p."""
    B, G, V = inputs.batch_size, inputs.groups, inputs.vocab_size
    like = inputs.temperature
    filters = tuple(like if x is None else x for x in (inputs.top_k, inputs.top_p, inputs.min_p))
    constants = {"TOP_K": inputs.top_k is not None, "TOP_P": inputs.top_p is not None}
    lower, threshold, tops = like.new_empty(B), like.new_empty(B), like.new_empty(B)
    counts, totals = like.new_empty(B, dtype=torch.int32), like.new_empty(B, dtype=torch.float64)
    launch: Any = bound_kernel[(B,)]
    launch(
        like,
        filters,
        partials.peaks,
        partials.sums,
        lower,
        threshold,
        counts,
        tops,
        totals,
        V,
        G,
        **constants,
        MIN_P=inputs.min_p is not None,
        G_BLOCK=groups_block(G),
        num_warps=BOUND_WARPS,
    )
    if inputs.top_k is None and inputs.top_p is None:
        return threshold
    assert scores is not None
    candidates = torch.empty_like(scores)
    shortlists = like.new_empty(B, CAPACITY if candidates.shape[1] > CAPACITY else 0)
    launch = gather_kernel[(B, G)]
    launch(scores, partials.peaks, lower, counts, candidates, G, num_warps=1)
    launch = select_kernel[(B,)]
    launch(
        candidates,
        counts,
        lower,
        tops,
        totals,
        like,
        filters,
        shortlists,
        threshold,
        V,
        G,
        **constants,
        CAPACITY=CAPACITY,
        num_warps=SELECT_WARPS,
    )
    return threshold


def regroup(inputs: Inputs, partials: Partials, scores: Tensor, threshold: Tensor) -> None:
    """Bring the partials of rows with a filter up to date."""
    launch: Any = regroup_kernel[(inputs.batch_size, inputs.groups)]
    launch(
        scores, threshold, inputs.temperature, partials.peaks, partials.sums, inputs.groups, num_warps=1
    )  # fmt: skip
