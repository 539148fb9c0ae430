"""The group pass: combine the models' logits and reduce every group of 1,024 ids.

    s_v      = bias_v + Σ_m w_m z_m,v                      float32; −inf where a rule excludes v
    peak_g   = max over the group of s_v
    sum_g    = Σ over the group of exp((s_v − peak_g) / T)  with T = 1 where the temperature is 0

It reads M·B·V logits once and writes three words per group; with log-probs or normalisers two more per group and model
from the same reads; in rows with top-k, top-p or min-p the scores too, V·4 bytes per row, and the peaks of the group's
eight subgroups.

A program is one warp and takes whole groups of one row, one after the other. There are two ways through a group. The
plain one has no rule in it: finite logits need none, −inf passes by itself, and NaN or +inf in any model turn up in
the sum. What turns up there, and the last group of fewer ids, goes the careful way, id by id by the rules (rules.py).
Which way depends on the row's own values only.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels import card
from genarm_kernels.sampling.arguments import Inputs
from genarm_kernels.sampling.groups import (
    ANYWHERE,
    GROUP,
    INFINITY,
    LOG2_E,
    SUBGROUPS,
    Partials,
    add_block,
    aligned,
    empty_group,
    filter_arguments,
    inverse_temperature,
    lane_width,
    load_group,
    load_weights,
    row_arguments,
    share_argument,
    starts_rows_at_16_bytes,
    store_model,
    store_partials,
    store_subgroups,
    subgroup_peaks,
)
from genarm_kernels.sampling.rules import reduce_carefully

# Models whose logits are on their way at the same time. With more models in all it is two, with log-probs one: more
# would not fit the registers.
LOADS = tl.constexpr(4)
# With more programs per processor than this, about all that it has room for at a time, each takes several groups, and
# sets up once for all of them.
PROGRAMS = 32
MOST_GROUPS = 8


@triton.jit
def has_score_filter(
    top_k, top_p, min_p, temperature, row, V, TOP_K: tl.constexpr, TOP_P: tl.constexpr, MIN_P: tl.constexpr
):
    """Whether top-k, top-p or min-p is on in a row. At temperature 0 they change nothing."""
    on = temperature != temperature
    if TOP_K:
        k = tl.load(top_k + row)
        on = on | ((k > 0) & (k < V))
    if TOP_P:
        on = on | (tl.load(top_p + row) < 1.0)
    if MIN_P:
        on = on | (tl.load(min_p + row) > 0.0)
    return on & (temperature != 0.0)


@triton.jit
def with_shares(weights, shares, M: tl.constexpr):
    """A tuple of what is 0 just for the models that have neither a weight nor a share."""
    either = ()
    for m in tl.static_range(M):
        either = either + (tl.abs(weights[m]) + tl.abs(tl.load(shares + m)),)
    return either


@triton.jit
def reduce_plainly(
    logits, strides, weights, examine, negative, bias, rate, base_threshold, row, g, stored, scores, partials, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, NORMALIZERS: tl.constexpr, SHARES: tl.constexpr,
    STORE: tl.constexpr, BASE_FILTER: tl.constexpr, WIDE: tl.constexpr, LANE: tl.constexpr,
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
    MODELWISE: tl.constexpr = LOGPROBS or NORMALIZERS
    SIZE: tl.constexpr = 1 if MODELWISE else LOADS if M <= LOADS else 2
    for batch in tl.static_range(0, M, SIZE):
        blocks = ()
        for m in tl.static_range(batch, min(M, batch + SIZE)):
            # The base is always read: its −inf excludes an id at weight 0 too.
            z = load_group(
                logits[m] + row * strides[m], g * GROUP, examine[m], m == 0 or LOGPROBS, WIDE, LANE
            )  # fmt: skip
            blocks = blocks + (z,)
        for m in tl.static_range(batch, min(M, batch + SIZE)):
            z = blocks[m - batch].to(tl.float32)
            if m == 0:
                base = z
                values = tl.fma(z, weights[m] + zeros, values)
            elif LOGPROBS or SHARES:
                # Read for its own sake, a model of weight 0 must not send the group the careful way.
                values = tl.fma(tl.where(weights[m] + zeros != 0.0, z, 0.0), weights[m] + zeros, values)
            else:
                values = tl.fma(z, weights[m] + zeros, values)
            if MODELWISE:
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
        store_subgroups(partials, row * G + g, subgroup_peaks(values))
    store_partials(partials, row * G + g, peak, total, 0, all_peak, all_total, BASE_FILTER)
    return bad | (total != total)


@triton.jit(
    do_not_specialize=["bias_stride", "row_stride", "model_stride", "V", "G", "count"],
    do_not_specialize_on_alignment=ANYWHERE,
)
def group_kernel(
    logits, strides, weights, row_stride, model_stride, bias, bias_stride, temperature, top_k, top_p, min_p,
    base_threshold, shares, scores, partials, V, G, count,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, NORMALIZERS: tl.constexpr, SHARES: tl.constexpr,
    BASE_FILTER: tl.constexpr,
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
    stored = has_score_filter(top_k, top_p, min_p, heat, row, V, TOP_K, TOP_P, MIN_P)
    loaded, negative = load_weights(weights + row * row_stride, model_stride, M)
    # What is not 0 for a model that is read.
    examine = loaded
    if SHARES:
        examine = with_shares(loaded, shares + row * M, M)
    bias += row * bias_stride
    for g in range(first, tl.minimum(first + count, G)):
        careful = True
        if (g + 1) * GROUP <= V:
            careful = reduce_plainly(
                logits, strides, loaded, examine, negative, bias, rate, threshold, row, g, stored, scores, partials,
                V, G, M, HAS_BIAS, LOGPROBS, NORMALIZERS, SHARES, STORE, BASE_FILTER, WIDE, LANE,
            )  # fmt: skip
        if careful:
            reduce_carefully(
                logits, strides, loaded, examine, bias, rate, threshold, row, g, stored, scores, partials, V, G,
                M, HAS_BIAS, LOGPROBS, NORMALIZERS, STORE, BASE_FILTER,
            )  # fmt: skip


def most_registers(M: int, logprobs: bool, normalizers: bool, base_filter: bool, wide: bool) -> int | None:
    """A lane's limit. Left alone, the assembler sometimes keeps to fewer than it needs, and spills a few."""
    many: bool = LOADS.value < M
    if many:
        if wide:
            return None if logprobs or normalizers else 240
        return 255 if normalizers else 240
    if logprobs or normalizers or base_filter:
        return None if wide else 168
    return 96


def groups_a_program(B: int, G: int, processors: int) -> int:
    return min(max(B * G // (PROGRAMS * processors), 1), MOST_GROUPS)


def reduce_groups(
    inputs: Inputs,
    logprobs: bool = False,
    normalizers: bool = False,
    base_threshold: Tensor | None = None,
    scores: Tensor | None = None,
) -> Partials:
    """Run the group pass; scores [B, G·1024] float32 is filled in the rows that have a score filter."""
    B, G, M = inputs.batch_size, inputs.groups, len(inputs.logits)
    like = inputs.temperature
    unfiltered = (B, G) if base_threshold is not None else (0,)
    modelwise = (B, M, G) if logprobs or normalizers else (0,)
    partials = Partials(
        like.new_empty(B, G),
        like.new_empty(B, G),
        like.new_empty(B, G, dtype=torch.int32),
        like.new_empty(unfiltered),
        like.new_empty(unfiltered),
        like.new_empty(modelwise),
        like.new_empty(modelwise),
        like.new_empty(B, SUBGROUPS.value * G if scores is not None else 0),
    )
    count = groups_a_program(B, G, card.card_of(like.device).processors)
    wide = starts_rows_at_16_bytes(*inputs.logits, *([] if inputs.bias is None else [inputs.bias]))
    launch: Any = group_kernel[(B, -(-G // count))]
    launch(
        *row_arguments(inputs),
        *filter_arguments(inputs),
        like if base_threshold is None else base_threshold,
        *share_argument(inputs),
        like if scores is None else scores,
        partials,
        inputs.vocab_size,
        G,
        count,
        M=M,
        HAS_BIAS=inputs.bias is not None,
        LOGPROBS=logprobs,
        NORMALIZERS=normalizers,
        SHARES=normalizers and inputs.normalizer_weights is not None,
        BASE_FILTER=base_threshold is not None,
        TOP_K=scores is not None and inputs.top_k is not None,
        TOP_P=scores is not None and inputs.top_p is not None,
        MIN_P=scores is not None and inputs.min_p is not None,
        WIDE=wide,
        LANE=lane_width(*inputs.logits),
        num_warps=1,
        num_stages=1,
        maxnreg=most_registers(M, logprobs, normalizers, base_threshold is not None, wide),
    )
    return partials
