"""y = x Wᵀ + bias by the C kernel: each weight read once for every four rows, a row's bits its own."""

from __future__ import annotations

import ctypes

import torch
from torch import Tensor

from .library import library

# Of float32 the library that torch brings is as good from here on; of bfloat16 it never is.
MOST_FLOAT_ROWS = 32


def suits(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor | None) -> bool:
    """Whether the kernel runs here, takes these tensors and is the faster way for them."""
    tensors = [tensor for tensor in (x, weight, bias, out) if tensor is not None]
    if any(type(tensor) not in (Tensor, torch.nn.Parameter) or tensor.device.type != "cpu" for tensor in tensors):
        return False  # a traced or fake tensor has no memory to point to
    if torch.is_grad_enabled() and any(tensor.requires_grad for tensor in tensors):
        return False
    (R, H), N = x.shape, weight.shape[0]
    if not R or not N or not H or any(tensor.stride(-1) != 1 or tensor.dtype != x.dtype for tensor in tensors):
        return False
    if x.dtype == torch.float32 and R > MOST_FLOAT_ROWS:
        return False
    return (bias is None or bias.shape == (N,)) and library(x.dtype) is not None


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """`genarm_kernels.skinny_linear` for tensors that ``suits`` takes."""
    native = library(x.dtype)
    assert native is not None
    (R, H), N = x.shape, weight.shape[0]
    if out is None:
        out = x.new_empty(R, N)
    threads = torch.get_num_threads()
    size = native.packed_rows(R, H) * H
    packed = torch.empty(threads * size, dtype=torch.float32)
    native.linear_rows(
        x.data_ptr(), x.stride(0), weight.data_ptr(), weight.stride(0), None if bias is None else bias.data_ptr(),
        out.data_ptr(), out.stride(0), R, N, H, packed.data_ptr(), size, ctypes.c_int(threads),
    )  # fmt: skip
    return out
