"""The second pass: race the groups, then the tokens of the winner.

    group = argmax over g of log Σ_{v in g} exp(s_v / T) − log E_g
    token = argmax over v in group of s_v / T − log E_v              E exponential, independent (noise.py)

A group wins with its share of the mass and a token with its share of the group's: the token is drawn from
softmax(s / T) exactly. Lowest ids win ties, and at temperature 0 the largest score wins. One program per row
reads its G partials and one group of 1,024 ids.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from typing import Any, NamedTuple

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.noise import GROUP as GROUP_NOISE
from genarm_kernels.noise import TOKEN as TOKEN_NOISE
from genarm_kernels.noise import noise_kernel
from genarm_kernels.sampling.arguments import NOTHING_LEFT, GuidedSample, Inputs
from genarm_kernels.sampling.combine import combine
from genarm_kernels.sampling.groups import (
    GROUP,
    INFINITY,
    UNIT,
    Partials,
    groups_block,
    inverse_temperature,
    load_partials,
    load_weights,
    row_arguments,
)

WARPS = 8
_NOTHING_LEFT = tl.constexpr(NOTHING_LEFT)


class Thresholds(NamedTuple):
    """What a row's filters keep: base logits ≥ the one, scores ≥ the other. [B] float32, None where nothing filters."""

    base: Tensor | None
    score: Tensor | None


@triton.jit
def log_normaliser(peaks, sums, inverse):
    """The row's peak, and log Σ exp((value − peak) · inverse)."""
    top = tl.max(peaks, 0)
    # Integers add up to the same in every order; here the order would follow the layout that the logits' loads get.
    total = tl.sum((sums * tl.exp((peaks - top) * inverse) * UNIT).to(tl.int64), 0)
    return top, tl.log(total.to(tl.float32) / UNIT)


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


@triton.jit(do_not_specialize=["bias_stride", "row_stride", "model_stride", "V", "G"])
def draw_kernel(
    logits, strides, weights, row_stride, model_stride, bias, bias_stride, temperature, seeds, positions,
    base_threshold, threshold, partials, tokens, logprobs, model_logprobs, statuses, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, BASE_FILTER: tl.constexpr,
    FILTERED: tl.constexpr, G_BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row. The winning group's scores are combined again; with FILTERED those ≥ the threshold race."""
    row = tl.program_id(0).to(tl.int64)
    g = tl.arange(0, G_BLOCK)
    seed, position = tl.load(seeds + row), tl.load(positions + row)
    heat = tl.load(temperature + row)
    greedy, inverse = heat == 0.0, inverse_temperature(heat)
    loaded, _ = load_weights(weights + row * row_stride, model_stride, M)
    row_peaks, row_sums = load_partials(partials.peaks + row * G, partials.sums + row * G, g, G)
    status = row_status(partials.bits + row * G, row_sums, g, G, M)

    group = race_groups(row_peaks, row_sums, g, inverse, greedy, seed, position)
    ids = group * GROUP + tl.arange(0, GROUP)
    values = kept_scores(
        logits, strides, loaded, bias + row * bias_stride, base_threshold, threshold, row, ids, V,
        M, HAS_BIAS, BASE_FILTER, FILTERED,
    )  # fmt: skip
    peak = tl.load(partials.peaks + row * G + group)
    token = group * GROUP + race_tokens(values, peak, ids, inverse, greedy, seed, position)
    if status != 0:
        token = best_base(logits[0] + row * strides[0], V, G)
    tl.store(tokens + row, token.to(tl.int64))
    tl.store(statuses + row, status)

    if LOGPROBS:
        undefined = tl.where(status != 0, float("nan"), 0.0)
        if BASE_FILTER:
            # At temperature 0 the log-prob is that of the distribution before the filters.
            before = row * G
            all_peaks, all_sums = load_partials(
                partials.unfiltered_peaks + before, partials.unfiltered_sums + before, g, G
            )
            row_peaks = tl.where(greedy, all_peaks, row_peaks)
            row_sums = tl.where(greedy, all_sums, row_sums)
        top, log_total = log_normaliser(row_peaks, row_sums, inverse)
        score = tl.max(tl.where(ids == token, values, -INFINITY), 0)
        tl.store(logprobs + row, (score - top) * inverse - log_total + undefined)
        for m in tl.static_range(M):
            at = (row * M + m) * G
            own_peaks, own_sums = load_partials(partials.model_peaks + at, partials.model_sums + at, g, G)
            top, log_total = log_normaliser(own_peaks, own_sums, 1.0)
            z = tl.load(logits[m] + row * strides[m] + token).to(tl.float32)
            tl.store(model_logprobs + row * M + m, z - top - log_total + undefined)


@triton.jit
def kept_scores(
    logits, strides, weights, bias, base_threshold, threshold, row, ids, V,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, BASE_FILTER: tl.constexpr, FILTERED: tl.constexpr,
):  # fmt: skip
    """Scores of one row at a block of ids that are left after all filters, −inf elsewhere."""
    lowest_base = -INFINITY
    if BASE_FILTER:
        lowest_base = tl.load(base_threshold + row)
    _, values, _ = combine(
        logits, strides, weights, bias, lowest_base, row, ids, V, M, HAS_BIAS, False, BASE_FILTER
    )  # fmt: skip
    if FILTERED:
        values = tl.where(values >= tl.load(threshold + row), values, -INFINITY)
    return values


@triton.jit(do_not_specialize=["bias_stride", "row_stride", "model_stride", "V", "G"])
def log_probs_kernel(
    logits, strides, weights, row_stride, model_stride, bias, bias_stride, temperature,
    base_threshold, threshold, partials, log_probs, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, BASE_FILTER: tl.constexpr, FILTERED: tl.constexpr, G_BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (row, group): the log-probabilities [B, V] of one group."""
    row = tl.program_id(0).to(tl.int64)
    this = tl.program_id(1)
    g = tl.arange(0, G_BLOCK)
    heat = tl.load(temperature + row)
    inverse = inverse_temperature(heat)
    loaded, _ = load_weights(weights + row * row_stride, model_stride, M)
    row_peaks, row_sums = load_partials(partials.peaks + row * G, partials.sums + row * G, g, G)
    status = row_status(partials.bits + row * G, row_sums, g, G, M)
    ids = this * GROUP + tl.arange(0, GROUP)
    values = kept_scores(
        logits, strides, loaded, bias + row * bias_stride, base_threshold, threshold, row, ids, V,
        M, HAS_BIAS, BASE_FILTER, FILTERED,
    )  # fmt: skip
    top, log_total = log_normaliser(row_peaks, row_sums, inverse)
    result = tl.where(values > -INFINITY, (values - top) * inverse - log_total, -INFINITY)
    group = tl.argmax(tl.where(row_sums > 0.0, row_peaks, -INFINITY), 0)
    best = group * GROUP + tl.argmax(values, 0)
    one_hot = tl.where((this == group) & (ids == best), 0.0, -INFINITY)
    result = tl.where(heat == 0.0, one_hot, result)
    tl.store(log_probs + row * V + ids, tl.where(status != 0, float("nan"), result), mask=ids < V)


def draw(inputs: Inputs, logprobs: bool, partials: Partials, thresholds: Thresholds) -> GuidedSample:
    """Draw one token per row from its partials."""
    B, M = inputs.batch_size, len(inputs.logits)
    like = inputs.temperature
    out = GuidedSample(
        like.new_empty(B, dtype=torch.int64),
        like.new_empty(B) if logprobs else None,
        like.new_empty(B, M) if logprobs else None,
        like.new_empty(B, dtype=torch.int32),
    )
    launch: Any = draw_kernel[(B,)]
    launch(
        *row_arguments(inputs),
        inputs.seeds,
        inputs.positions,
        *(like if x is None else x for x in thresholds),
        partials,
        out.tokens,
        like if out.logprobs is None else out.logprobs,
        like if out.model_logprobs is None else out.model_logprobs,
        out.status,
        inputs.vocab_size,
        inputs.groups,
        LOGPROBS=logprobs,
        **_row_constants(inputs, thresholds),
        num_warps=WARPS,
    )
    return out


def normalise(inputs: Inputs, partials: Partials, thresholds: Thresholds) -> Tensor:
    """Log-probabilities [B, V] from the rows' partials."""
    like = inputs.temperature
    log_probs = like.new_empty(inputs.batch_size, inputs.vocab_size)
    launch: Any = log_probs_kernel[(inputs.batch_size, inputs.groups)]
    launch(
        *row_arguments(inputs),
        *(like if x is None else x for x in thresholds),
        partials,
        log_probs,
        inputs.vocab_size,
        inputs.groups,
        **_row_constants(inputs, thresholds),
        num_warps=WARPS,
    )
    return log_probs


def _row_constants(inputs: Inputs, thresholds: Thresholds) -> dict[str, Any]:
    return {
        "M": len(inputs.logits),
        "HAS_BIAS": inputs.bias is not None,
        "BASE_FILTER": thresholds.base is not None,
        "FILTERED": thresholds.score is not None,
        "G_BLOCK": groups_block(inputs.groups),
    }
