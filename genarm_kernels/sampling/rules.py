"""Scores by the rules on masks, weights of 0 and bad values, id by id: for the draw, and a group's careful way.

s_v = bias_v + Σ_m w_m z_m,v        float32; −inf where a rule excludes v
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

import triton
import triton.language as tl

from genarm_kernels.sampling.groups import (
    GROUP,
    INFINITY,
    LOG2_E,
    SUBGROUPS,
    add_block,
    empty_group,
    store_model,
    store_partials,
    store_subgroups,
    subgroup_peaks,
)

# Ids taken at a time the careful way, few so that it needs no more registers than the plain one.
CAREFUL = tl.constexpr(128)


@triton.jit
def combine(
    logits, strides, weights, examine, bias, base_threshold, row, ids, V,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, EXAMINE_ALL: tl.constexpr, BASE_FILTER: tl.constexpr,
):  # fmt: skip
    """By the rules, id by id: scores of one row, those the base's filter leaves, and the bits of bad models.

    logits, strides, weights, examine: tuples of M, of which `examine` is 0 where a model's bad values do not count;
    bias: pointer to the row's; base_threshold: the row's, −inf where there is none.
    """
    # Conditions on the row are blocks, since Triton's interpreter cannot combine a scalar one with a block.
    mask = ids < V
    zeros = ids.to(tl.float32) * 0.0
    scores = zeros
    if HAS_BIAS:
        scores = tl.load(bias + ids, mask=mask, other=0.0)
    kept = mask
    bits = 0
    for m in tl.static_range(M):
        weight = weights[m] + zeros
        used = weight != 0.0
        examined = examine[m] + zeros != 0.0
        if EXAMINE_ALL:
            examined = mask
        elif BASE_FILTER and m == 0:
            examined = examined | (base_threshold + zeros > -INFINITY)
        # The base is always read: its −inf excludes an id at weight 0 too.
        read = mask if m == 0 else mask & examined
        z = tl.load(logits[m] + row * strides[m] + ids, mask=read, other=0.0).to(tl.float32)
        # NaN compares false.
        bits = bits | (tl.max(tl.where(examined & ~(z < INFINITY), 1, 0), 0) << m)
        scores = tl.where(used, tl.fma(z, weight, scores), scores)
        if m == 0:
            scores = tl.where(z == -INFINITY, z, scores)
            if BASE_FILTER:
                kept = mask & (tl.where(z < INFINITY, z, -INFINITY) >= base_threshold)
    scores = tl.where(mask & (tl.abs(scores) < INFINITY), scores, -INFINITY)
    return scores, tl.where(kept, scores, -INFINITY), bits


@triton.jit
def reduce_carefully(
    logits, strides, weights, examine, bias, rate, base_threshold, row, g, stored, scores, partials, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, NORMALIZERS: tl.constexpr, STORE: tl.constexpr,
    BASE_FILTER: tl.constexpr,
):  # fmt: skip
    """One group by the rules."""
    if STORE:
        # Other lanes of the plain way may have stored the same scores.
        tl.debug_barrier()
    # A NaN temperature leaves nothing.
    lowest = tl.where(rate == rate, -INFINITY, INFINITY)
    finite_rate = tl.where(rate == rate, rate, 1.0)
    peak, total = empty_group()
    all_peak, all_total = empty_group()
    bits = 0
    peaks = tl.full([SUBGROUPS], -INFINITY, tl.float32)
    for start in range(0, GROUP, CAREFUL):
        ids = g * GROUP + start + tl.arange(0, CAREFUL)
        values, kept, found = combine(
            logits, strides, weights, examine, bias, base_threshold, row, ids, V, M, HAS_BIAS, LOGPROBS, BASE_FILTER
        )
        bits = bits | found
        kept = tl.where(kept > lowest, kept, -INFINITY)
        peak, total = add_block(peak, total, kept, finite_rate, 4)
        if BASE_FILTER:
            values = tl.where(values > lowest, values, -INFINITY)
            all_peak, all_total = add_block(all_peak, all_total, values, finite_rate, 4)
        if STORE and stored:
            tl.store(scores + row * (G * GROUP) + ids, kept)
            peaks = tl.maximum(peaks, subgroup_peaks(kept))
    if STORE and stored:
        store_subgroups(partials, row * G + g, peaks)
    store_partials(partials, row * G + g, peak, total, bits, all_peak, all_total, BASE_FILTER)
    if LOGPROBS or NORMALIZERS:
        for m in tl.static_range(M):
            peak, total = empty_group()
            for start in range(0, GROUP, CAREFUL):
                ids = g * GROUP + start + tl.arange(0, CAREFUL)
                read = ids < V
                if not LOGPROBS:
                    read = read & (examine[m] + ids.to(tl.float32) * 0.0 != 0.0)
                z = tl.load(logits[m] + row * strides[m] + ids, mask=read, other=-INFINITY).to(tl.float32)
                peak, total = add_block(peak, total, tl.where(z < INFINITY, z, -INFINITY), LOG2_E, 4)
            store_model(partials, (row * M + m) * G + g, peak, total)
