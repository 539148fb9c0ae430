"""y = x Wᵀ + bias by the C kernel: each weight read once for every four rows, a row's bits its own."""

from __future__ import annotations

import torch
from torch import Tensor

from genarm_kernels.native.library import compiled, threads


def linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """Of tensors in memory of one dtype with last strides of 1, any number of rows."""
    native = compiled(x.dtype)
    assert native is not None
    (R, H), N = x.shape, weight.shape[0]
    if out is None:
        out = x.new_empty(R, N)
    team = threads()
    size = native.packed_rows(R, H) * H
    packed = torch.empty(team * size, dtype=torch.float32, device="cpu")
    native.linear_rows(
        x.data_ptr(), x.stride(0), weight.data_ptr(), weight.stride(0), None if bias is None else bias.data_ptr(),
        out.data_ptr(), out.stride(0), R, N, H, packed.data_ptr(), size, team,
    )  # fmt: skip
    return out
