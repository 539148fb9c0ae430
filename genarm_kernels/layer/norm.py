"""The step behind o_proj and down_proj: residual add, LoRA expand and RMSNorm in one pass.

    residual += z[:, :N] + B h
    normed    = round(residual / √(mean(residual²) + ε)) · weight

A row reads and writes 4·N elements; with an adapter also its B, N·rank. There is one program per row, 8 columns per
lane, at most 4,096 columns at a time: 512 lanes with 16 loads of 16 bytes each in flight then hold all of B at N =
4,096 and rank 16, 131 KB, 1.2 µs at the 64 bytes per clock that an SM takes from L2. Ranks above 16 come 16 at a time.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer import cpu
from genarm_kernels.layer.lora import Lora, check_columns, expand_columns
from genarm_kernels.sampling.groups import aligned, starts_rows_at_16_bytes

LANE = 8
SMALLEST, LARGEST = 256, 4096


@triton.jit
def sum_two_squares(first, second):
    """first² + second², the second square rounded. Left the choice, a compiler makes another one in every variant."""
    return tl.fma(first, first, second * second)


@triton.jit
def sum_neighbours(values, HALVINGS: tl.constexpr):
    """[2^HALVINGS · n] -> [n]: sums of neighbours in one order, whatever layout their loads were given."""
    for _ in tl.static_range(HALVINGS):
        first, second = tl.split(tl.reshape(values, [values.shape[0] // 2, 2]))
        values = first + second
    return values


@triton.jit
def sum_eight_squares(values):
    """[8·n] -> [n]: sums of the squares of 8 consecutive values, by the same additions in every variant."""
    first, second = tl.split(tl.reshape(values, [values.shape[0] // 2, 2]))
    return sum_neighbours(sum_two_squares(first, second), 2)


@triton.jit(do_not_specialize=["z_stride", "residual_stride"], do_not_specialize_on_alignment=["adapters"])
def add_rms_norm_kernel(
    z, z_stride, residual, residual_stride, weight, normed, up, adapters, eps,
    N: tl.constexpr, RANK: tl.constexpr, ADD: tl.constexpr, WIDE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row; RANK 0 is no LoRA. The row stays in registers from its sum to its result."""
    row = tl.program_id(0).to(tl.int64)
    # Pointers that are aligned by WIDE's word; else nothing is claimed.
    ALIGNED: tl.constexpr = BLOCK if WIDE else 1
    z += row * z_stride
    residual += row * residual_stride
    adapter = -1
    if RANK > 0:
        adapter = tl.load(adapters + row)
    weights, sums = (), ()
    for start in tl.static_range(0, N, BLOCK):
        columns = start + tl.arange(0, BLOCK)
        mask = columns < N
        value = tl.load(at(residual, columns, ALIGNED), mask=mask, other=0.0).to(tl.float32)
        if ADD:
            value += tl.load(at(z, columns, ALIGNED), mask=mask, other=0.0).to(tl.float32)
        # Asked for here, so that they are there when the row's scale is.
        weights += (tl.load(weight + columns, mask=mask, other=0.0),)
        if RANK > 0:
            value += expand_columns(z, up, adapter, 0, columns, mask, N, 1, RANK)
        if ADD:
            rounded = value.to(residual.dtype.element_ty)
            tl.store(at(residual, columns, ALIGNED), rounded, mask=mask)
            value = rounded.to(tl.float32)
        sums += (value,)

    squares = tl.zeros([BLOCK // 8], tl.float32)
    for value in tl.static_range(len(sums)):
        squares += sum_eight_squares(sums[value])
    scale = tl.rsqrt(tl.sum(squares, 0) / N + eps)
    for block in tl.static_range(len(sums)):
        columns = block * BLOCK + tl.arange(0, BLOCK)
        value = (sums[block] * scale).to(residual.dtype.element_ty).to(tl.float32) * weights[block].to(tl.float32)
        tl.store(normed + row * N + columns, value.to(normed.dtype.element_ty), mask=columns < N)


@triton.jit
def at(pointer, columns, ALIGNED: tl.constexpr):
    """Pointers to consecutive columns; ALIGNED of them at a time begin at a multiple of 16 bytes, 1 for no claim."""
    return aligned(pointer, columns, ALIGNED) if ALIGNED > 1 else pointer + columns


def add_rms_norm(z: Tensor | None, residual: Tensor, weight: Tensor, eps: float, lora: Lora | None = None) -> Tensor:
    """residual += z + its LoRA expand, in place; -> RMSNorm of the residual as Hugging Face's LlamaRMSNorm has it.

    Args:
        z: [R, N + shrinks] of o_proj or down_proj, any row stride; None adds nothing (a model's first norm).
        residual: [R, N] bfloat16, float16 or float32, any row stride. The sum is taken in float32 and rounded once.
        weight: [N]. The result has its dtype.
        eps: added to the mean of the squares.
        lora: the adapters on z's layer, with widths (N,).

    Returns:
        [R, N]: the rounded residual over its root mean square (float32), rounded to the residual's dtype, times weight.

    Raises:
        ValueError: shapes, strides, dtypes or devices that do not fit together.

    Source: Zhang and Sennrich 2019, Root Mean Square Layer Normalization; Hu et al. 2021, LoRA.
    """
    _check(z, residual, weight, lora)
    if not (residual.is_cuda or INTERPRETED):
        return cpu.add_rms_norm(z, residual, weight, eps, lora)
    R, N = residual.shape
    normed = residual.new_empty(R, N, dtype=weight.dtype)
    if R:
        with on_device(residual.device):
            _launch(z, residual, weight, normed, eps, lora)
    return normed


def _check(z: Tensor | None, residual: Tensor, weight: Tensor, lora: Lora | None) -> None:
    if residual.ndim != 2 or residual.stride(1) != 1:
        raise ValueError(f"residual is {list(residual.shape)}, strides {residual.stride()}: expected rows [R, N]")
    if weight.shape != residual.shape[1:] or weight.device != residual.device or not weight.is_contiguous():
        raise ValueError(
            f"weight is {list(weight.shape)} on {weight.device}: expected [{residual.shape[1]}] on {residual.device}"
        )
    if z is None:
        if lora is not None:
            raise ValueError("lora without z: the expand needs the shrinks that z carries; leave both out or neither")
        return
    if z.shape[0] != residual.shape[0] or z.device != residual.device:
        raise ValueError(
            f"z has {z.shape[0]} rows on {z.device} and residual {residual.shape[0]} on {residual.device}: "
            "every row needs both"
        )
    check_columns(z, (residual.shape[1],), lora)


def block_size(N: int, itemsize: int) -> int:
    """Columns that a program holds at a time: half as many of float32, or B would not fit the registers."""
    largest = LARGEST if itemsize == 2 else LARGEST // 2
    return min(max(int(triton.next_power_of_2(N)), SMALLEST), largest)


def _launch(z: Tensor | None, residual: Tensor, weight: Tensor, normed: Tensor, eps: float, lora: Lora | None) -> None:
    R, N = normed.shape
    rows = residual if z is None else z
    block = block_size(N, rows.element_size())
    launch: Any = add_rms_norm_kernel[(R,)]
    launch(
        rows,
        rows.stride(0),
        residual,
        residual.stride(0),
        weight,
        normed,
        normed if lora is None else lora.up,
        normed if lora is None else lora.adapters,
        eps,
        N=N,
        RANK=0 if lora is None else lora.rank,
        ADD=z is not None,
        WIDE=starts_rows_at_16_bytes(rows, residual),
        BLOCK=block,
        num_warps=block // (32 * LANE),
        num_stages=1,
    )
