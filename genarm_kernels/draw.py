"""The second pass: race the groups, then the tokens of the winner.

    group = argmax over g of log Σ_{v in g} exp(s_v / T) − log E_g
    token = argmax over v in group of s_v / T − log E_v              E exponential, independent (philox.py)

A group wins with its share of the mass and a token with its share of the group's: the token is drawn from
softmax(s / T) exactly. Lowest ids win ties, and at temperature 0 the largest score wins. Reads G partials and one group
of 1,024 ids a row; one program a row.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.arguments import NOTHING_LEFT, GuidedSample, Inputs
from genarm_kernels.combine import GROUP, INFINITY, LOWEST, Partials, combine, inverse_temperature, load_kept
from genarm_kernels.philox import GROUP as GROUP_NOISE
from genarm_kernels.philox import TOKEN as TOKEN_NOISE
from genarm_kernels.philox import noise_kernel

_NOTHING_LEFT = tl.constexpr(NOTHING_LEFT)


@triton.jit
def load_partials(peaks, sums, g, G):
    """Peaks and sums of a row's groups; beyond G they are those of empty groups."""
    mask = g < G
    return tl.load(peaks + g, mask=mask, other=LOWEST), tl.load(sums + g, mask=mask, other=0.0)


@triton.jit
def log_normaliser(peaks, sums, inverse):
    """The row's peak, and log Σ exp((value − peak) · inverse)."""
    top = tl.max(peaks, 0)
    return top, tl.log(tl.sum(sums * tl.exp((peaks - top) * inverse), 0))


@triton.jit
def row_status(bits, sums, g, G, M: tl.constexpr):
    found = tl.load(bits + g, mask=g < G, other=0)
    status = tl.where(tl.max(sums, 0) > 0.0, 0, _NOTHING_LEFT)
    for m in tl.static_range(M):
        status = status | (tl.max((found >> m) & 1, 0) << m)
    return status


@triton.jit
def race_groups(peaks, sums, g, inverse, greedy, seed, position):
    """The winning group of a row."""
    # log 0 is −inf; an empty group never wins, and costs no log of 0.
    live = sums > 0.0
    log_mass = (peaks - tl.max(peaks, 0)) * inverse + tl.log(tl.where(live, sums, 1.0))
    value = log_mass - tl.log(noise_kernel(seed, position, g, GROUP_NOISE))
    return tl.argmax(tl.where(live, tl.where(greedy, peaks, value), -INFINITY), 0)


@triton.jit
def race_tokens(values, peak, ids, inverse, greedy, seed, position):
    """The winning place in a group: ids and values [1024]."""
    value = (values - peak) * inverse - tl.log(noise_kernel(seed, position, ids, TOKEN_NOISE))
    return tl.argmax(tl.where(values > -INFINITY, tl.where(greedy, values, value), -INFINITY), 0)


@triton.jit
def best_base(base, V, G):
    """The argmax of a row's finite logits, lowest id first; 0 where there is none."""
    best, token = -INFINITY, 0
    for g in range(G):
        ids = g * GROUP + tl.arange(0, GROUP)
        z = tl.load(base + ids, mask=ids < V, other=-INFINITY).to(tl.float32)
        z = tl.where(tl.abs(z) < INFINITY, z, -INFINITY)
        peak = tl.max(z, 0)
        token = tl.where(peak > best, g * GROUP + tl.argmax(z, 0), token)
        best = tl.maximum(best, peak)
    return token


@triton.jit(
    do_not_specialize=["shift", "bias_stride", "row_stride", "model_stride", "V", "G"],
    do_not_specialize_on_alignment=["weights", "bias", "scores"],
)
def draw_kernel(
    logits, strides, shift, weights, row_stride, model_stride, bias, bias_stride, temperature, seeds, positions,
    scores, threshold, unfiltered_peaks, unfiltered_sums, peaks, sums, bits, model_peaks, model_sums,
    tokens, logprobs, model_logprobs, statuses, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, FILTERED: tl.constexpr, G_BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a row. With FILTERED the scores [B, G·1024] were combined before; those ≥ the threshold race."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.arange(0, G_BLOCK)
    seed, position = tl.load(seeds + row), tl.load(positions + row)
    heat = tl.load(temperature + row)
    greedy, inverse = heat == 0.0, inverse_temperature(heat)
    row_peaks, row_sums = load_partials(peaks + row * G, sums + row * G, g, G)
    status = row_status(bits + row * G, row_sums, g, G, M)

    group = race_groups(row_peaks, row_sums, g, inverse, greedy, seed, position)
    ids = group * GROUP + tl.arange(0, GROUP)
    mask = ids < V
    if FILTERED:
        values = load_kept(scores + row * (G * GROUP), ids, tl.load(threshold + row))
    else:
        values, _ = combine(
            logits, strides, shift, weights + row * row_stride, model_stride, bias + row * bias_stride, -INFINITY, row,
            ids, mask, M, HAS_BIAS, False, False,
        )  # fmt: skip
    place = race_tokens(values, tl.load(peaks + row * G + group), ids, inverse, greedy, seed, position)
    token = group * GROUP + place
    if status != 0:
        token = best_base(logits[0] + row * strides[0] + shift, V, G)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(statuses + row, status)

    if LOGPROBS:
        if FILTERED:
            # At temperature 0 the log-prob is that of the distribution before the filters.
            before_peaks, before_sums = load_partials(unfiltered_peaks + row * G, unfiltered_sums + row * G, g, G)
            row_peaks = tl.where(greedy, before_peaks, row_peaks)
            row_sums = tl.where(greedy, before_sums, row_sums)
        top, log_total = log_normaliser(row_peaks, row_sums, inverse)
        score = tl.sum(tl.where(ids == token, values, 0.0), 0)
        undefined = tl.where(status != 0, float("nan"), 0.0)
        tl.store(logprobs + row, (score - top) * inverse - log_total + undefined)
        for m in tl.static_range(M):
            at = (row * M + m) * G
            own_peaks, own_sums = load_partials(model_peaks + at, model_sums + at, g, G)
            top, log_total = log_normaliser(own_peaks, own_sums, 1.0)
            z = tl.load(logits[m] + row * strides[m] + token).to(tl.float32)
            tl.store(model_logprobs + row * M + m, z - top - log_total + undefined)


@triton.jit(do_not_specialize=["V", "G"])
def log_probs_kernel(
    scores, threshold, temperature, peaks, sums, bits, log_probs, V, G,
    M: tl.constexpr, FILTERED: tl.constexpr, G_BLOCK: tl.constexpr,
):  # fmt: skip
    """One program a row and group: scores [B, G·1024] to log-probabilities [B, V]."""
    program = tl.program_id(0)
    row = (program // G).to(tl.int64)
    this = program % G
    g = tl.arange(0, G_BLOCK)
    row_peaks, row_sums = load_partials(peaks + row * G, sums + row * G, g, G)
    status = row_status(bits + row * G, row_sums, g, G, M)
    ids = this * GROUP + tl.arange(0, GROUP)
    lowest = -INFINITY
    if FILTERED:
        lowest = tl.load(threshold + row)
    values = load_kept(scores + row * (G * GROUP), ids, lowest)
    heat = tl.load(temperature + row)
    inverse = inverse_temperature(heat)
    top, log_total = log_normaliser(row_peaks, row_sums, inverse)
    result = tl.where(values > -INFINITY, (values - top) * inverse - log_total, -INFINITY)
    group = tl.argmax(tl.where(row_sums > 0.0, row_peaks, -INFINITY), 0)
    best = group * GROUP + tl.argmax(values, 0)
    one_hot = tl.where((this == group) & (ids == best), 0.0, -INFINITY)
    result = tl.where(heat == 0.0, one_hot, result)
    tl.store(log_probs + row * V + ids, tl.where(status != 0, float("nan"), result), mask=ids < V)


def draw(
    inputs: Inputs,
    logprobs: bool,
    partials: Partials,
    unfiltered: Partials,
    scores: Tensor | None = None,
    threshold: Tensor | None = None,
) -> GuidedSample:
    """Draw from the partials: of the models' scores, or of scores [B, G·1024] above the threshold [B]."""
    B, G, M = inputs.batch_size, inputs.groups, len(inputs.logits)
    like = inputs.temperature
    bias = like if inputs.bias is None else inputs.bias
    out = GuidedSample(
        like.new_empty(B, dtype=torch.int64),
        like.new_empty(B) if logprobs else None,
        like.new_empty(B, M) if logprobs else None,
        like.new_empty(B, dtype=torch.int32),
    )
    launch: Any = draw_kernel[(B,)]
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
        inputs.seeds,
        inputs.positions,
        like if scores is None else scores,
        like if threshold is None else threshold,
        unfiltered.peaks,
        unfiltered.sums,
        *partials,
        out.tokens,
        like if out.logprobs is None else out.logprobs,
        like if out.model_logprobs is None else out.model_logprobs,
        out.status,
        inputs.vocab_size,
        G,
        M=M,
        HAS_BIAS=inputs.bias is not None,
        LOGPROBS=logprobs,
        FILTERED=scores is not None,
        G_BLOCK=max(16, triton.next_power_of_2(G)),
        num_warps=4,
    )
    return out


def normalise(inputs: Inputs, scores: Tensor, partials: Partials, threshold: Tensor | None) -> Tensor:
    """Scores [B, G·1024] to log-probabilities [B, V]."""
    G = inputs.groups
    log_probs = scores.new_empty(inputs.batch_size, inputs.vocab_size)
    launch: Any = log_probs_kernel[(inputs.batch_size * G,)]
    launch(
        scores,
        scores if threshold is None else threshold,
        inputs.temperature,
        partials.peaks,
        partials.sums,
        partials.bits,
        log_probs,
        inputs.vocab_size,
        G,
        M=len(inputs.logits),
        FILTERED=threshold is not None,
        G_BLOCK=max(16, triton.next_power_of_2(G)),
        num_warps=1,
    )
    return log_probs
