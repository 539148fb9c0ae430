"""The group pass: combine the models' logits and reduce every group of 1,024 ids.

    s_v      = bias_v + Σ_m w_m z_m,v                      float32; −inf where a rule excludes v
    peak_g   = max over the group of s_v
    sum_g    = Σ over the group of exp((s_v − peak_g) / T)  with T = 1 where the temperature is 0

It reads M·B·V logits once and writes three words per group; with log-probs two more per group and model from the same
reads; in rows with top-k, top-p or min-p the scores too, V·4 bytes per row.

A program is one warp and takes whole groups of one row, one after the other. There are two ways through a group. The
plain one has no rule in it: finite logits need none, −inf passes by itself, and NaN or +inf in any model turn up in
the sum. What turns up there, and the last group of fewer ids, goes the careful way, id by id by the rules. Which way
depends on the row's own values only.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.sampling.arguments import Inputs
from genarm_kernels.sampling.groups import (
    GROUP,
    INFINITY,
    LOG2_E,
    Partials,
    add_block,
    aligned,
    empty_group,
    inverse_temperature,
    lane_width,
    load_group,
    load_weights,
    row_arguments,
    starts_rows_at_16_bytes,
    store_model,
    store_partials,
)

# Ids taken at a time the careful way, few so that it needs no more registers than the plain one.
CAREFUL = tl.constexpr(128)
# Models whose logits are on their way at the same time. With more models in all it is two, with log-probs one: more
# would not fit the registers.
LOADS = tl.constexpr(4)
# With more programs than this each takes several groups, and sets up once for all of them.
PROGRAMS = 4096
MOST_GROUPS = 8


@triton.jit
def has_score_filter(filters, temperature, row, V, TOP_K: tl.constexpr, TOP_P: tl.constexpr, MIN_P: tl.constexpr):
    """Whether top-k, top-p or min-p is on in a row. At temperature 0 they change nothing."""
    on = temperature != temperature
    if TOP_K:
        k = tl.load(filters[0] + row)
        on = on | ((k > 0) & (k < V))
    if TOP_P:
        on = on | (tl.load(filters[1] + row) < 1.0)
    if MIN_P:
        on = on | (tl.load(filters[2] + row) > 0.0)
    return on & (temperature != 0.0)


@triton.jit
def combine(
    logits, strides, weights, bias, base_threshold, row, ids, V,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, EXAMINE_ALL: tl.constexpr, BASE_FILTER: tl.constexpr,
):  # fmt: skip
    """By the rules, id by id: scores of one row, those the base's filter leaves, and the bits of bad models.

    logits, strides, weights: tuples of M; bias: pointer to the row's; base_threshold: the row's, −inf where there is
    none.
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
        examined = used
        if EXAMINE_ALL:
            examined = mask
        elif BASE_FILTER and m == 0:
            examined = used | (base_threshold + zeros > -INFINITY)
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
    logits, strides, weights, bias, rate, base_threshold, row, g, stored, scores, partials, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, STORE: tl.constexpr, BASE_FILTER: tl.constexpr,
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
    for start in range(0, GROUP, CAREFUL):
        ids = g * GROUP + start + tl.arange(0, CAREFUL)
        values, kept, found = combine(
            logits, strides, weights, bias, base_threshold, row, ids, V, M, HAS_BIAS, LOGPROBS, BASE_FILTER
        )
        bits = bits | found
        kept = tl.where(kept > lowest, kept, -INFINITY)
        peak, total = add_block(peak, total, kept, finite_rate, 4)
        if BASE_FILTER:
            values = tl.where(values > lowest, values, -INFINITY)
            all_peak, all_total = add_block(all_peak, all_total, values, finite_rate, 4)
        if STORE and stored:
            tl.store(scores + row * (G * GROUP) + ids, kept)
    store_partials(partials, row * G + g, peak, total, bits, all_peak, all_total, BASE_FILTER)
    if LOGPROBS:
        for m in tl.static_range(M):
            peak, total = empty_group()
            for start in range(0, GROUP, CAREFUL):
                ids = g * GROUP + start + tl.arange(0, CAREFUL)
                z = tl.load(logits[m] + row * strides[m] + ids, mask=ids < V, other=-INFINITY).to(tl.float32)
                peak, total = add_block(peak, total, tl.where(z < INFINITY, z, -INFINITY), LOG2_E, 4)
            store_model(partials, (row * M + m) * G + g, peak, total)


@triton.jit
def reduce_plainly(
    logits, strides, weights, negative, bias, rate, base_threshold, row, g, stored, scores, partials, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, STORE: tl.constexpr, BASE_FILTER: tl.constexpr,
    WIDE: tl.constexpr, LANE: tl.constexpr,
):  # fmt: skip
    """One whole group without looking for what rules are about; True where something of it turned up."""
    zeros = tl.full([GROUP], 0.0, tl.float32)
    bad = False
    values = zeros
    if HAS_BIAS:
        values = load_group(bias, g * GROUP, 1.0, True, WIDE, LANE)
        if not WIDE and M > LOADS:
            # As below, for the first models' loads.
            tl.debug_barrier()
    base = zeros
    SIZE: tl.constexpr = 1 if LOGPROBS else LOADS if M <= LOADS else 2
    for batch in tl.static_range(0, M, SIZE):
        blocks = ()
        for m in tl.static_range(batch, min(M, batch + SIZE)):
            # The base is always read: its −inf excludes an id at weight 0 too.
            z = load_group(
                logits[m] + row * strides[m], g * GROUP, weights[m], m == 0 or LOGPROBS, WIDE, LANE
            )  # fmt: skip
            blocks = blocks + (z,)
        for m in tl.static_range(batch, min(M, batch + SIZE)):
            z = blocks[m - batch].to(tl.float32)
            if m == 0:
                base = z
                values = tl.fma(z, weights[m] + zeros, values)
            elif LOGPROBS:
                # Read for its own log-probs, a model of weight 0 must not send the group the careful way.
                values = tl.fma(tl.where(weights[m] + zeros != 0.0, z, 0.0), weights[m] + zeros, values)
            else:
                values = tl.fma(z, weights[m] + zeros, values)
            if LOGPROBS:
                own_peak, own_total = empty_group()
                own_peak, own_total = add_block(own_peak, own_total, z, LOG2_E, LANE)
                store_model(partials, (row * M + m) * G + g, own_peak, own_total)
                bad = bad | (own_total != own_total)
        if not WIDE and batch + SIZE < M:
            # The next models' many narrow loads would be moved up to here, and not fit the registers.
            tl.debug_barrier()
    if negative:
        # +inf times a negative weight looks like an excluded id.
        bad = bad | (tl.min(values, 0) == -INFINITY)
    peak, total = empty_group()
    all_peak, all_total = empty_group()
    if BASE_FILTER:
        all_peak, all_total = add_block(all_peak, all_total, values, rate, LANE)
        bad = bad | (all_total != all_total)
        if M > LOADS:
            # Read again from the cache, since the registers are needed for the models.
            base = load_group(logits[0] + row * strides[0], g * GROUP, 1.0, True, WIDE, LANE).to(tl.float32)
        values = tl.where(base >= base_threshold, values, -INFINITY)
    peak, total = add_block(peak, total, values, rate, LANE)
    if STORE and stored:
        tl.store(aligned(scores + row * (G * GROUP), g * GROUP + tl.arange(0, GROUP), GROUP), values)
    store_partials(partials, row * G + g, peak, total, 0, all_peak, all_total, BASE_FILTER)
    return bad | (total != total)


@triton.jit(do_not_specialize=["bias_stride", "row_stride", "model_stride", "V", "G", "count"])
def group_kernel(
    logits, strides, weights, row_stride, model_stride, bias, bias_stride, temperature, filters, base_threshold,
    scores, partials, V, G, count,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, BASE_FILTER: tl.constexpr,
    TOP_K: tl.constexpr, TOP_P: tl.constexpr, MIN_P: tl.constexpr, WIDE: tl.constexpr, LANE: tl.constexpr,
):  # fmt: skip
    """Program (row, split): `count` groups of a row. With filters the scores of rows that have one are stored."""
    STORE: tl.constexpr = TOP_K or TOP_P or MIN_P
    row = tl.program_id(0).to(tl.int64)
    first = tl.program_id(1) * count
    heat = tl.load(temperature + row)
    rate = inverse_temperature(heat) * LOG2_E
    threshold = -INFINITY
    if BASE_FILTER:
        threshold = tl.load(base_threshold + row)
    stored = has_score_filter(filters, heat, row, V, TOP_K, TOP_P, MIN_P)
    loaded, negative = load_weights(weights + row * row_stride, model_stride, M)
    bias += row * bias_stride
    for g in range(first, tl.minimum(first + count, G)):
        careful = True
        if (g + 1) * GROUP <= V:
            careful = reduce_plainly(
                logits, strides, loaded, negative, bias, rate, threshold, row, g, stored, scores, partials, V, G,
                M, HAS_BIAS, LOGPROBS, STORE, BASE_FILTER, WIDE, LANE,
            )  # fmt: skip
        if careful:
            reduce_carefully(
                logits, strides, loaded, bias, rate, threshold, row, g, stored, scores, partials, V, G,
                M, HAS_BIAS, LOGPROBS, STORE, BASE_FILTER,
            )  # fmt: skip


def most_registers(M: int, logprobs: bool, base_filter: bool, wide: bool) -> int | None:
    """A lane's limit. Left alone, the assembler sometimes keeps to fewer than it needs, and spills a few."""
    many: bool = LOADS.value < M
    if many:
        return None if logprobs and wide else 240
    if logprobs or base_filter:
        return None if wide else 168
    return 96


def groups_a_program(B: int, G: int) -> int:
    return min(max(B * G // PROGRAMS, 1), MOST_GROUPS)


def reduce_groups(
    inputs: Inputs, logprobs: bool, base_threshold: Tensor | None = None, scores: Tensor | None = None
) -> Partials:
    """Run the group pass; scores [B, G·1024] float32 is filled in the rows that have a score filter."""
    B, G, M = inputs.batch_size, inputs.groups, len(inputs.logits)
    like = inputs.temperature
    unfiltered = (B, G) if base_threshold is not None else (0,)
    modelwise = (B, M, G) if logprobs else (0,)
    partials = Partials(
        like.new_empty(B, G),
        like.new_empty(B, G),
        like.new_empty(B, G, dtype=torch.int32),
        like.new_empty(unfiltered),
        like.new_empty(unfiltered),
        like.new_empty(modelwise),
        like.new_empty(modelwise),
    )
    filters = (inputs.top_k, inputs.top_p, inputs.min_p)
    count = groups_a_program(B, G)
    wide = starts_rows_at_16_bytes(*inputs.logits, *([] if inputs.bias is None else [inputs.bias]))
    launch: Any = group_kernel[(B, -(-G // count))]
    launch(
        *row_arguments(inputs),
        tuple(like if x is None else x for x in filters),
        like if base_threshold is None else base_threshold,
        like if scores is None else scores,
        partials,
        inputs.vocab_size,
        G,
        count,
        M=M,
        HAS_BIAS=inputs.bias is not None,
        LOGPROBS=logprobs,
        BASE_FILTER=base_threshold is not None,
        TOP_K=scores is not None and inputs.top_k is not None,
        TOP_P=scores is not None and inputs.top_p is not None,
        MIN_P=scores is not None and inputs.min_p is not None,
        WIDE=wide,
        LANE=lane_width(*inputs.logits),
        num_warps=1,
        num_stages=1,
        maxnreg=most_registers(M, logprobs, base_threshold is not None, wide),
    )
    return partials
