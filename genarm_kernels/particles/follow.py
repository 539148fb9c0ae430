"""Rows of a key-value cache that go on as other rows: the tails alone are copied, in place, by one launch.

A row that follows another reads and writes 2·L·H·D elements per token of its tail, and nothing else is touched. Its
L·2·H tails are shared out among the row's programs, 8 KB of loads in flight each; those of a row that stays end at
once. Rows that are followed stay as they are, so no order of programs matters.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels import card
from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.particles import cpu

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
BLOCK_WORDS, WARPS = 2048, 4
# Of all rows, per processor: four for each of its 16 places.
PROGRAMS = 64


@triton.jit(do_not_specialize=["R", "H", "T", "tails"], do_not_specialize_on_alignment=["origins", "starts", "lengths"])
def follow_rows_kernel(
    cache, origins, starts, lengths, R, H, T, tails, WORDS: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (row, share of its tails); the cache in words of one token's WORDS."""
    row = tl.program_id(0).to(tl.int64)
    origin = tl.load(origins + row)
    if (origin != row) & (origin >= 0) & (origin < R):
        start = tl.maximum(tl.load(starts + row), 0).to(tl.int64) * WORDS
        stop = tl.minimum(tl.load(lengths + row), T).to(tl.int64) * WORDS
        for tail in range(tl.program_id(1), tails, tl.num_programs(1)):
            plane = (tail // H).to(tl.int64) * R
            head = tail % H
            source = cache + ((plane + origin) * H + head) * T * WORDS
            target = cache + ((plane + row) * H + head) * T * WORDS
            for first in range(start, stop, BLOCK):
                words = first + tl.arange(0, BLOCK)
                mask = words < stop
                tl.store(target + words, tl.load(source + words, mask=mask), mask=mask)


def follow_rows(cache: Tensor, origins: Tensor, starts: Tensor, lengths: Tensor) -> None:
    """Row r takes tokens starts[r] … lengths[r] − 1 of row origins[r], in every layer and head, in place.

    Args:
        cache: [L, 2, R, H, T, D] bfloat16, float16 or float32, contiguous: keys and values of L layers. One buffer
            [R, H, T, D] is cache[None, None].
        origins: [R] int64. A row that is its own stays as it is, and one that others follow has to be its own.
        starts: [R] int32: the first token that a row and its origin need not have in common, such as a prompt's length.
        lengths: [R] int32: one behind the last token that the row takes. Where it is not above starts, none is.

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together; on a CPU a row that follows none, or one that
            follows another itself. On a GPU origins are not read back: a row that does not exist is not followed there.
    """
    _check(cache, origins, starts, lengths)
    if not (cache.is_cuda or INTERPRETED):
        cpu.follow_rows(cache, origins, starts, lengths)
    elif cache.numel():
        with on_device(cache.device):
            _launch(cache, origins.contiguous(), starts.contiguous(), lengths.contiguous())


def _launch(cache: Tensor, origins: Tensor, starts: Tensor, lengths: Tensor) -> None:
    L, K, R, H, T, D = cache.shape
    # Bits are copied: a number would lose a NaN's.
    in_fours = cache.data_ptr() % 4 == 0 and D * cache.element_size() % 4 == 0
    words = cache.view(torch.int32 if in_fours else torch.int16)
    tails = L * K * H
    launch: Any = follow_rows_kernel[(R, shares(R, tails, card.card_of(cache.device).processors))]
    launch(
        words, origins, starts, lengths, R, H, T, tails, WORDS=words.shape[-1], BLOCK=BLOCK_WORDS, num_warps=WARPS,
        num_stages=1,
    )  # fmt: skip


def shares(R: int, tails: int, processors: int) -> int:
    """How many programs share a row's tails."""
    return min(tails, triton.cdiv(PROGRAMS * processors, R))


def _check(cache: Tensor, origins: Tensor, starts: Tensor, lengths: Tensor) -> None:
    if cache.ndim != 6 or cache.dtype not in DTYPES or not cache.is_contiguous():
        raise ValueError(
            f"cache is {cache.dtype} {list(cache.shape)}, strides {cache.stride()}: expected bfloat16, float16 or "
            "float32 [L, 2, R, H, T, D], contiguous"
        )
    R = cache.shape[2]
    expected = {"origins": (origins, torch.int64), "starts": (starts, torch.int32), "lengths": (lengths, torch.int32)}
    for name, (values, dtype) in expected.items():
        if values.shape != (R,) or values.dtype != dtype:
            raise ValueError(f"{name} is {values.dtype} {list(values.shape)}: expected {dtype} [{R}], one per row")
        if values.device != cache.device:
            raise ValueError(f"{name} is on {values.device} and the cache on {cache.device}: move one of them")
