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
from genarm_kernels.sampling.groups import (
    ANYWHERE,
    GROUP,
    INFINITY,
    UNIT,
    Partials,
    groups_block,
    inverse_temperature,
    load_partials,
    load_weights,
    row_arguments,
    share_argument,
)
from genarm_kernels.sampling.rules import combine

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
def scored_mass(partials, row, peaks, sums, greedy, inverse, g, G, BASE_FILTER: tl.constexpr):
    """The same of what a row's log-probs are under, its partials being `peaks` and `sums`."""
    if BASE_FILTER:
        # At temperature 0 that is the distribution before the filters.
        before = row * G
        all_peaks, all_sums = load_partials(partials.unfiltered_peaks + before, partials.unfiltered_sums + before, g, G)
        peaks = tl.where(greedy, all_peaks, peaks)
        sums = tl.where(greedy, all_sums, sums)
    return log_normaliser(peaks, sums, inverse)


@triton.jit
def product_mass(partials, weights, stride, row, top, log_total, inverse, status, g, G, M: tl.constexpr):
    """log Z: a row's mass without the models' own normalisers; one of weight 0 has no part. weights: of its models."""
    # In float64, so that a number added to all logits of one model costs nothing here.
    level = top.to(tl.float64)
    for m in range(M):
        at = (row * M + m) * G
        own_peaks, own_sums = load_partials(partials.model_peaks + at, partials.model_sums + at, g, G)
        own_top, own_total = log_normaliser(own_peaks, own_sums, 1.0)
        weight = tl.load(weights + m * stride).to(tl.float64)
        level -= tl.where(weight != 0.0, weight * (own_top.to(tl.float64) + own_total.to(tl.float64)), 0.0)
    value = (level * inverse.to(tl.float64) + log_total.to(tl.float64)).to(tl.float32)
    undefined = tl.where(status == _NOTHING_LEFT, -INFINITY, float("nan"))
    return tl.where(status == 0, value, undefined)


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
    do_not_specialize=["bias_stride", "row_stride", "model_stride", "V", "G"],
    do_not_specialize_on_alignment=ANYWHERE,
)
def draw_kernel(
    logits, strides, weights, row_stride, model_stride, bias, bias_stride, temperature, seeds, positions,
    base_threshold, threshold, shares, partials, tokens, logprobs, model_logprobs, statuses, log_normalizers, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, LOGPROBS: tl.constexpr, NORMALIZERS: tl.constexpr, SHARES: tl.constexpr,
    BASE_FILTER: tl.constexpr, FILTERED: tl.constexpr, G_BLOCK: tl.constexpr,
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

    if LOGPROBS or NORMALIZERS:
        top, log_total = scored_mass(partials, row, row_peaks, row_sums, greedy, inverse, g, G, BASE_FILTER)
    if NORMALIZERS:
        of_models, stride = weights + row * row_stride, model_stride
        if SHARES:
            of_models, stride = shares + row * M, 1
        mass = product_mass(partials, of_models, stride, row, top, log_total, inverse, status, g, G, M)
        tl.store(log_normalizers + row, mass)
    if LOGPROBS:
        undefined = tl.where(status != 0, float("nan"), 0.0)
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
        logits, strides, weights, weights, bias, lowest_base, row, ids, V, M, HAS_BIAS, False, BASE_FILTER
    )  # fmt: skip
    if FILTERED:
        values = tl.where(values >= tl.load(threshold + row), values, -INFINITY)
    return values


def most_registers(logprobs: bool, normalizers: bool) -> int | None:
    """A lane's limit, as in combine.py."""
    return 128 if logprobs and normalizers else None


def draw(inputs: Inputs, logprobs: bool, normalizers: bool, partials: Partials, thresholds: Thresholds) -> GuidedSample:
    """Draw one token per row from its partials."""
    B, M = inputs.batch_size, len(inputs.logits)
    like = inputs.temperature
    out = GuidedSample(
        like.new_empty(B, dtype=torch.int64),
        like.new_empty(B) if logprobs else None,
        like.new_empty(B, M) if logprobs else None,
        like.new_empty(B, dtype=torch.int32),
        like.new_empty(B) if normalizers else None,
    )
    launch: Any = draw_kernel[(B,)]
    launch(
        *row_arguments(inputs),
        inputs.seeds,
        inputs.positions,
        *(like if x is None else x for x in thresholds),
        *share_argument(inputs),
        partials,
        out.tokens,
        like if out.logprobs is None else out.logprobs,
        like if out.model_logprobs is None else out.model_logprobs,
        out.status,
        like if out.log_normalizers is None else out.log_normalizers,
        inputs.vocab_size,
        inputs.groups,
        LOGPROBS=logprobs,
        NORMALIZERS=normalizers,
        **row_constants(inputs, thresholds),
        num_warps=WARPS,
        maxnreg=most_registers(logprobs, normalizers),
    )
    return out


def row_constants(inputs: Inputs, thresholds: Thresholds) -> dict[str, Any]:
    return {
        "M": len(inputs.logits),
        "HAS_BIAS": inputs.bias is not None,
        "SHARES": inputs.normalizer_weights is not None,
        "BASE_FILTER": thresholds.base is not None,
        "FILTERED": thresholds.score is not None,
        "G_BLOCK": groups_block(inputs.groups),
    }
