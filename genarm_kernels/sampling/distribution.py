"""What tokens are drawn from, written out: log-probabilities [B, V] from the rows' partials.

Program (row, group) reads its row's partials and combines its 1,024 ids again: M·B·V logits, B·V·4 bytes written.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.sampling.arguments import Inputs
from genarm_kernels.sampling.draw import (
    WARPS,
    Thresholds,
    kept_scores,
    log_normaliser,
    product_mass,
    row_constants,
    row_status,
    scored_mass,
)
from genarm_kernels.sampling.groups import (
    ANYWHERE,
    GROUP,
    INFINITY,
    Partials,
    inverse_temperature,
    load_partials,
    load_weights,
    row_arguments,
    share_argument,
)


@triton.jit(
    do_not_specialize=["bias_stride", "row_stride", "model_stride", "V", "G"],
    do_not_specialize_on_alignment=ANYWHERE,
)
def log_probs_kernel(
    logits, strides, weights, row_stride, model_stride, bias, bias_stride, temperature,
    base_threshold, threshold, shares, partials, log_probs, log_normalizers, V, G,
    M: tl.constexpr, HAS_BIAS: tl.constexpr, NORMALIZERS: tl.constexpr, SHARES: tl.constexpr,
    BASE_FILTER: tl.constexpr, FILTERED: tl.constexpr, G_BLOCK: tl.constexpr,
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
    if NORMALIZERS and this == 0:
        top, log_total = scored_mass(partials, row, row_peaks, row_sums, heat == 0.0, inverse, g, G, BASE_FILTER)
        of_models, stride = weights + row * row_stride, model_stride
        if SHARES:
            of_models, stride = shares + row * M, 1
        mass = product_mass(partials, of_models, stride, row, top, log_total, inverse, status, g, G, M)
        tl.store(log_normalizers + row, mass)


def normalise(
    inputs: Inputs, normalizers: bool, partials: Partials, thresholds: Thresholds
) -> tuple[Tensor, Tensor | None]:
    """Log-probabilities [B, V] from the rows' partials, and where they are asked for log_normalizers [B]."""
    like = inputs.temperature
    log_probs = like.new_empty(inputs.batch_size, inputs.vocab_size)
    log_normalizers = like.new_empty(inputs.batch_size) if normalizers else None
    launch: Any = log_probs_kernel[(inputs.batch_size, inputs.groups)]
    launch(
        *row_arguments(inputs),
        *(like if x is None else x for x in thresholds),
        *share_argument(inputs),
        partials,
        log_probs,
        like if log_normalizers is None else log_normalizers,
        inputs.vocab_size,
        inputs.groups,
        NORMALIZERS=normalizers,
        **row_constants(inputs, thresholds),
        num_warps=WARPS,
    )
    return log_probs, log_normalizers
