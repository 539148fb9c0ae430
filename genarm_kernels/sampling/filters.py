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

    bound    a value that the threshold cannot be below (bounds.py)
    gather   the candidates, scores at least the bound, from the subgroups whose peak reaches it
    select   the threshold, among the candidates
    regroup  the groups' peaks and sums again, of what is left

Bytes: V·4 per row written by the group pass, and read twice as far as subgroups reach the bound and the threshold;
candidates written once, and read by every pass of the search.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from dataclasses import replace
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.sampling import bounds
from genarm_kernels.sampling.arguments import GROUP_SIZE, Inputs
from genarm_kernels.sampling.combine import reduce_groups
from genarm_kernels.sampling.groups import (
    ANYWHERE,
    GROUP,
    INFINITY,
    LOG2_E,
    LOWEST,
    RUN,
    SUBGROUPS,
    Partials,
    add_block,
    aligned,
    empty_group,
    filter_arguments,
    inverse_temperature,
)
from genarm_kernels.sampling.search import from_sortable, mass_from, search, sortable

CAPACITY = 4096
SELECT_WARPS = 8


@triton.jit
def reaching(subgroup_peaks, lowest):
    """Which of a group's subgroups have a score ≥ `lowest` -> [8] int32."""
    return (tl.load(aligned(subgroup_peaks, tl.arange(0, SUBGROUPS), SUBGROUPS)) >= lowest).to(tl.int32)


@triton.jit
def load_reaching(scores, first, reached):
    """The 1,024 scores from id `first` on; −inf, and not read, in subgroups that are not reached."""
    RUNS: tl.constexpr = GROUP // (SUBGROUPS * RUN)
    ids = tl.reshape(tl.arange(0, GROUP), [RUNS, SUBGROUPS, RUN])
    pointers = tl.max_contiguous(tl.multiple_of(scores + first + ids, [16, 16, 16]), [1, 1, RUN])
    return tl.reshape(tl.load(pointers, mask=reached[None, :, None] != 0, other=-INFINITY), [GROUP])


@triton.jit(do_not_specialize=["G"])
def gather_kernel(scores, subgroup_peaks, lower, counts, candidates, G):
    """Program (row, group): append the group's scores that reach the bound to the row's candidates, in any order."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1)
    bound = tl.load(lower + row)
    # Rows without a filter have no scores, nor peaks of subgroups.
    if bound < INFINITY:
        reached = reaching(subgroup_peaks + (row * G + g) * SUBGROUPS, bound)
        if tl.max(reached, 0) > 0:
            at = row * (G * GROUP)
            values = load_reaching(scores + at, g * GROUP, reached)
            kept = (values >= bound).to(tl.int32)
            first = tl.atomic_add(counts + row, tl.sum(kept, 0))
            tl.store(candidates + at + first + tl.cumsum(kept, 0) - 1, values, mask=kept != 0)


@triton.jit(do_not_specialize=["V", "G"], do_not_specialize_on_alignment=ANYWHERE)
def select_kernel(
    candidates, counts, lower, tops, totals, temperature, top_k, top_p, shortlists, threshold, V, G,
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
            k = tl.load(top_k + row)
            if (k > 0) & (k < V):
                low = search(candidates, n, low, end, k.to(tl.float64), top, rate, shortlist, CAPACITY, False)
                lowest = tl.maximum(lowest, from_sortable(low))
                total = mass_from(candidates, n, from_sortable(low), top, rate).to(tl.float64)
        if TOP_P:
            p = tl.load(top_p + row)
            if p < 1.0:
                # At least one unit, so that the largest always stays.
                target = tl.maximum(total * p.to(tl.float64), 1.0)
                low = search(candidates, n, low, end, target, top, rate, shortlist, CAPACITY, True)
                lowest = tl.maximum(lowest, from_sortable(low))
        tl.store(threshold + row, lowest)


@triton.jit(do_not_specialize=["G"], do_not_specialize_on_alignment=ANYWHERE)
def regroup_kernel(scores, subgroup_peaks, threshold, temperature, peaks, sums, G):
    """Program (row, group): the group's peak and sum again, of the scores ≥ the row's threshold."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.program_id(1)
    lowest = tl.load(threshold + row)
    at = row * G + g
    if lowest > -INFINITY:
        peak, total = empty_group()
        if tl.load(peaks + at) >= lowest:
            reached = reaching(subgroup_peaks + at * SUBGROUPS, lowest)
            values = load_reaching(scores + row * (G * GROUP), g * GROUP, reached)
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
    B, G = inputs.batch_size, inputs.groups
    like = inputs.temperature
    found = bounds.bound(inputs, partials)
    if inputs.top_k is None and inputs.top_p is None:
        return found.threshold
    assert scores is not None
    candidates = torch.empty_like(scores)
    shortlists = like.new_empty(B, CAPACITY if candidates.shape[1] > CAPACITY else 0)
    launch: Any = gather_kernel[(B, G)]
    launch(scores, partials.subgroup_peaks, found.lower, found.counts, candidates, G, num_warps=1)
    launch = select_kernel[(B,)]
    launch(
        candidates,
        found.counts,
        found.lower,
        found.tops,
        found.totals,
        like,
        *filter_arguments(inputs)[:2],
        shortlists,
        found.threshold,
        inputs.vocab_size,
        G,
        TOP_K=inputs.top_k is not None,
        TOP_P=inputs.top_p is not None,
        CAPACITY=CAPACITY,
        num_warps=SELECT_WARPS,
    )
    return found.threshold


def regroup(inputs: Inputs, partials: Partials, scores: Tensor, threshold: Tensor) -> None:
    """Bring the partials of rows with a filter up to date."""
    launch: Any = regroup_kernel[(inputs.batch_size, inputs.groups)]
    launch(
        scores,
        partials.subgroup_peaks,
        threshold,
        inputs.temperature,
        partials.peaks,
        partials.sums,
        inputs.groups,
        num_warps=1,
    )
