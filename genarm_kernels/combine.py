"""The group pass: combine the models' logits and reduce every group of 1,024 ids.

    s_v      = bias_v + Σ_m w_m z_m,v                      float32; −inf where a rule excludes v
    peak_g   = max over the group of s_v
    sum_g    = Σ over the group of exp((s_v − peak_g) / T)  with T = 1 where the temperature is 0

Reads M·B·V logits once and writes three words a group; with log-probs, two more a group and model, from the same reads
(the second load of a line is a cache hit); with filters, the scores too, B·V·4 bytes.

One warp reduces a group, and the compiler knows no argument's alignment: a group's layout, hence the order of its sums
and its last bits, is the same for every batch, stride and offset. Triton specialises on what tuples hold, whatever it
is told, so those addresses are hidden behind `shift`, an argument that is always 0.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.arguments import GROUP_SIZE, MAX_INVERSE_TEMPERATURE, MIN_INVERSE_TEMPERATURE, Inputs

GROUP = tl.constexpr(GROUP_SIZE)
INFINITY = tl.constexpr(float("inf"))
# The peak of an empty group: finite, so that no difference of two peaks is −inf − (−inf).
LOWEST = tl.constexpr(-3.4028234663852886e38)
# Ids of a group that are combined at a time, by M: what a warp's registers hold of M rows.
CHUNKS = {1: 1024, 2: 512, 3: 256, 4: 256, 5: 128, 6: 128, 7: 128, 8: 128}
_MAX_INVERSE = tl.constexpr(MAX_INVERSE_TEMPERATURE)
_MIN_INVERSE = tl.constexpr(MIN_INVERSE_TEMPERATURE)


class Partials(NamedTuple):
    """What the group pass leaves behind, G groups a row."""

    peaks: Tensor  # [B, G] float32
    sums: Tensor  # [B, G] float32
    bits: Tensor  # [B, G] int32: bit m where model m has a NaN or +inf in the group
    model_peaks: Tensor  # [B, M, G] float32; of no size without log-probs
    model_sums: Tensor  # [B, M, G] float32


@triton.jit
def inverse_temperature(temperature):
    """1/T, 1 for T = 0. A negative or NaN T gives NaN, which excludes every token."""
    inverse = 1.0 / tl.where(temperature == 0.0, 1.0, temperature)
    # NaN compares false on either side, and passes.
    inverse = tl.where(inverse > _MAX_INVERSE, _MAX_INVERSE, inverse)
    inverse = tl.where((inverse >= 0.0) & (inverse < _MIN_INVERSE), _MIN_INVERSE, inverse)
    return tl.where(temperature < 0.0, float("nan"), inverse)


@triton.jit
def combine(
    logits, strides, shift, weights, model_stride, bias, base_threshold, row, ids, mask,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, EXAMINE_ALL: tl.constexpr, BASE_FILTER: tl.constexpr,
):  # fmt: skip
    """Scores of one row at a block of ids, and bit m where model m has a NaN or +inf among them.

    logits, strides: tuples of M; weights, bias: pointers to the row's; base_threshold: the row's, −inf where it has
    none.
    """
    # Conditions on the row are blocks, since Triton's interpreter cannot combine a scalar one with a block.
    zeros = ids.to(tl.float32) * 0.0
    scores = zeros
    bits = 0
    for m in tl.static_range(M):
        weight = tl.load(weights + m * model_stride) + zeros
        used = weight != 0.0
        examined = used
        if EXAMINE_ALL:
            examined = mask
        elif BASE_FILTER and m == 0:
            examined = used | (base_threshold + zeros > -INFINITY)
        # The base is always read: its −inf excludes an id at weight 0 too.
        read = mask if m == 0 else mask & examined
        z = tl.load(logits[m] + row * strides[m] + shift + ids, mask=read, other=0.0).to(tl.float32)
        # NaN compares false.
        bits = bits | (tl.max(tl.where(examined & ~(z < INFINITY), 1, 0), 0) << m)
        part = tl.where(used, weight * z, 0.0)
        if m == 0:
            part = tl.where(z == -INFINITY, z, part)
        scores += part
    if HAS_BIAS:
        scores += tl.load(bias + ids, mask=mask, other=0.0)
    return tl.where(mask & (tl.abs(scores) < INFINITY), scores, -INFINITY), bits


@triton.jit
def empty_group():
    """The peak and sum of no values."""
    return tl.full([], LOWEST, tl.float32), tl.full([], 0.0, tl.float32)


@triton.jit
def add_block(peak, total, values, inverse):
    """A group's peak and Σ exp((value − peak) · inverse) with one more block of values."""
    # A NaN temperature leaves nothing.
    values = tl.where(inverse == inverse, values, -INFINITY)
    top = tl.maximum(peak, tl.max(values, 0))
    terms = tl.where(values > -INFINITY, tl.exp((values - top) * inverse), 0.0)
    return top, tl.where(top > peak, total * tl.exp((peak - top) * inverse), total) + tl.sum(terms, 0)


@triton.jit
def reduce_logits(z, first, V, CHUNK: tl.constexpr):
    """Peak and Σ exp(z − peak) of a model's own group; z: pointer to its row."""
    peak, total = empty_group()
    for start in range(0, GROUP, CHUNK):
        ids = first + start + tl.arange(0, CHUNK)
        values = tl.load(z + ids, mask=ids < V, other=-INFINITY).to(tl.float32)
        peak, total = add_block(peak, total, tl.where(values < INFINITY, values, -INFINITY), 1.0)
    return peak, total


@triton.jit
def base_filtered(values, z, ids, mask, threshold):
    """Values where the base's logit ≥ the threshold, −inf elsewhere; z: pointer to the base's row."""
    base = tl.load(z + ids, mask=mask, other=-INFINITY).to(tl.float32)
    return tl.where(tl.where(base < INFINITY, base, -INFINITY) >= threshold, values, -INFINITY)


@triton.jit(
    do_not_specialize=["shift", "bias_stride", "row_stride", "model_stride", "V", "G"],
    do_not_specialize_on_alignment=["weights", "bias", "scores"],
)
def group_kernel(
    logits, strides, shift, weights, row_stride, model_stride, bias, bias_stride, temperature, base_threshold,
    scores, peaks, sums, all_bits, model_peaks, model_sums, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, STORE: tl.constexpr, BASE_FILTER: tl.constexpr,
    CHUNK: tl.constexpr,
):  # fmt: skip
    """One program a row and group. With STORE the scores that the base filters leave go to scores [B, G·1024]."""
    program = tl.program_id(0)
    row = (program // G).to(tl.int64)
    g = program % G
    inverse = inverse_temperature(tl.load(temperature + row))
    threshold = -INFINITY
    if BASE_FILTER:
        threshold = tl.load(base_threshold + row)
    peak, total = empty_group()
    bits = 0
    for start in range(0, GROUP, CHUNK):
        ids = g * GROUP + start + tl.arange(0, CHUNK)
        mask = ids < V
        values, found = combine(
            logits, strides, shift, weights + row * row_stride, model_stride, bias + row * bias_stride, threshold, row,
            ids, mask, M, HAS_BIAS, LOGPROBS, BASE_FILTER,
        )  # fmt: skip
        peak, total = add_block(peak, total, values, inverse)
        bits = bits | found
        if STORE:
            if BASE_FILTER:
                values = base_filtered(values, logits[0] + row * strides[0] + shift, ids, mask, threshold)
            tl.store(scores + row * (G * GROUP) + ids, values)
    tl.store(peaks + program, peak)
    tl.store(sums + program, total)
    tl.store(all_bits + program, bits)
    if LOGPROBS:
        for m in tl.static_range(M):
            peak, total = reduce_logits(logits[m] + row * strides[m] + shift, g * GROUP, V, CHUNK)
            tl.store(model_peaks + (row * M + m) * G + g, peak)
            tl.store(model_sums + (row * M + m) * G + g, total)


@triton.jit(do_not_specialize=["G"])
def filtered_group_kernel(scores, threshold, temperature, peaks, sums, G):
    """The same reduction over scores [B, G·1024] already combined, of those ≥ the row's threshold."""
    program = tl.program_id(0)
    row = (program // G).to(tl.int64)
    ids = (program % G) * GROUP + tl.arange(0, GROUP)
    values = load_kept(scores + row * (G * GROUP), ids, tl.load(threshold + row))
    peak, total = empty_group()
    peak, total = add_block(peak, total, values, inverse_temperature(tl.load(temperature + row)))
    tl.store(peaks + program, peak)
    tl.store(sums + program, total)


@triton.jit
def load_kept(scores, ids, threshold):
    values = tl.load(scores + ids)
    return tl.where(values >= threshold, values, -INFINITY)


def reduce_groups(
    inputs: Inputs, logprobs: bool, base_threshold: Tensor | None = None, scores: Tensor | None = None
) -> Partials:
    """Run the group pass; scores [B, G·1024] float32 is filled where it is given, −inf beyond V."""
    B, G, M = inputs.batch_size, inputs.groups, len(inputs.logits)
    like = inputs.temperature
    modelwise = (B, M, G) if logprobs else (0,)
    partials = Partials(
        like.new_empty(B, G),
        like.new_empty(B, G),
        like.new_empty(B, G, dtype=torch.int32),
        like.new_empty(modelwise),
        like.new_empty(modelwise),
    )
    bias = like if inputs.bias is None else inputs.bias
    launch: Any = group_kernel[(B * G,)]
    launch(
        inputs.logits,
        tuple(z.stride(0) for z in inputs.logits),
        0,
        inputs.weights,
        inputs.weights.stride(0),
        inputs.weights.stride(1),
        bias,
        bias.stride(0),
        inputs.temperature,
        like if base_threshold is None else base_threshold,
        like if scores is None else scores,
        *partials,
        inputs.vocab_size,
        G,
        M=M,
        HAS_BIAS=inputs.bias is not None,
        LOGPROBS=logprobs,
        STORE=scores is not None,
        BASE_FILTER=base_threshold is not None,
        CHUNK=CHUNKS[M],
        num_warps=1,
    )
    return partials


def reduce_filtered_groups(inputs: Inputs, scores: Tensor, threshold: Tensor, partials: Partials) -> Partials:
    """The partials of what the filters leave of scores [B, G·1024]; bits and the models' own stay."""
    peaks, sums = torch.empty_like(partials.peaks), torch.empty_like(partials.sums)
    launch: Any = filtered_group_kernel[(peaks.numel(),)]
    launch(scores, threshold, inputs.temperature, peaks, sums, inputs.groups, num_warps=1)
    return partials._replace(peaks=peaks, sums=sums)
