"""y = x Wᵀ + bias by whichever way is the faster for so many rows."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.layer.linear import skinny_linear
from genarm_kernels.native.choice import figures, library
from genarm_kernels.native.products import linear

# Where nothing is measured: of float32 the library that torch brings is as good from here on, of bfloat16 with AVX2 it
# never is.
MOST_FLOAT_ROWS = 32


def rows_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """`genarm_kernels.skinny_linear`, on a CPU by the C kernel where that runs and is the faster way.

    For a model's own pass: plain tensors in memory, nothing that traces or wants a gradient.
    """
    return linear(x, weight, bias) if suits(x, weight, bias) else skinny_linear(x, weight, bias)


def suits(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> bool:
    """Whether the kernel runs here, takes these tensors and is the faster way for them."""
    if x.device.type != "cpu" or INTERPRETED or library(x.dtype) is None:
        return False
    if len(x) > most_rows(x.dtype):
        return False
    tensors = [tensor for tensor in (x, weight, bias) if tensor is not None]
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    return bool(x.numel() and weight.numel()) and all(
        tensor.stride(-1) == 1 and tensor.dtype == x.dtype and tensor.device == x.device for tensor in tensors
    )


def most_rows(dtype: torch.dtype) -> float:
    """Up to how many rows the kernel is the faster way."""
    measured = figures(dtype)
    if measured is not None:
        return measured.most_rows
    return MOST_FLOAT_ROWS if dtype == torch.float32 else math.inf
