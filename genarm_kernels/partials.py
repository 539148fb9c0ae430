"""What the group pass leaves behind for the kernels after it: a few words for each group of a row."""

# mypy: disable-error-code="no-untyped-call, no-untyped-def"

from typing import NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.groups import LOWEST


class Partials(NamedTuple):
    """G groups a row; of no size what was not asked for."""

    peaks: Tensor  # [B, G] float32
    sums: Tensor  # [B, G] float32
    bits: Tensor  # [B, G] int32: bit m where model m has a NaN or +inf in the group
    unfiltered_peaks: Tensor  # [B, G] float32, before the base's filters; with such filters only
    unfiltered_sums: Tensor  # [B, G] float32
    model_peaks: Tensor  # [B, M, G] float32; with log-probs only
    model_sums: Tensor  # [B, M, G] float32


@triton.jit
def store_partials(partials, at, peak, total, bits, all_peak, all_total, BASE_FILTER: tl.constexpr):
    tl.store(partials.peaks + at, peak)
    tl.store(partials.sums + at, total)
    tl.store(partials.bits + at, bits)
    if BASE_FILTER:
        tl.store(partials.unfiltered_peaks + at, all_peak)
        tl.store(partials.unfiltered_sums + at, all_total)


@triton.jit
def store_model(partials, at, peak, total):
    tl.store(partials.model_peaks + at, peak)
    tl.store(partials.model_sums + at, total)


@triton.jit
def load_partials(peaks, sums, g, G):
    """Peaks and sums of a row's groups; beyond G they are those of empty groups."""
    mask = g < G
    return tl.load(peaks + g, mask=mask, other=LOWEST), tl.load(sums + g, mask=mask, other=0.0)


def groups_block(G: int) -> int:
    """Places for a row's groups in one block, which are a power of two."""
    return max(16, int(triton.next_power_of_2(G)))
