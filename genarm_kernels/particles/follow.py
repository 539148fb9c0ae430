"""Rows of a key-value cache that go on as other rows: the tails alone are copied, in place.

A row that follows another reads and writes 2·L·H·D elements per token of its tail, and nothing else is touched.
"""

import torch
from torch import Tensor

from genarm_kernels.particles import cpu

DTYPES = (torch.bfloat16, torch.float16, torch.float32)


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
    cpu.follow_rows(cache, origins, starts, lengths)


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
