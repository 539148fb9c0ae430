"""A linear layer for 1 to 64 rows, as fast as its weights can be read.

    y[r, n] = Σ_k x[r, k] W[n, k] + bias[n]          float32 sums; one rounding, to x's dtype

It reads the N·H weights once, the R·H inputs once per tile of rows of W (from L2), and writes R·N outputs.

A program owns 32 or 64 rows of W and walks along H (products.py). The configuration follows from shapes and the card
(cut.py), and an element's sum has one order for every R.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels import card
from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer.cut import MOST_ROWS, configuration
from genarm_kernels.layer.products import (
    WARPS,
    Norm,
    norm_arguments,
    norm_constants,
    products,
    tile_constants,
)

SUM_COLUMNS = 512


@triton.jit(do_not_specialize=["R", "steps"])
def linear_kernel(
    x, weight, bias, out, R, N, H, x_stride, weight_stride, out_stride, steps, squares, squares_stride, gain, eps,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, SLICES: tl.constexpr, SLICE: tl.constexpr, DEPTH: tl.constexpr,
    EVEN: tl.constexpr, HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr, NORM: tl.constexpr, EIGHTS: tl.constexpr,
    BLOCKS: tl.constexpr,
):  # fmt: skip
    """Program (tile of W, part of H). EVEN: H is a multiple of a step. out is [splits, R, N], rows out_stride apart."""
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.arange(0, ROWS)
    part = tl.program_id(1)
    first, last = part * steps, tl.minimum((part + 1) * steps, tl.cdiv(H, SLICES * SLICE))
    y = products(
        x, weight, n, N - 1, first, last, R, H, x_stride, weight_stride, squares, squares_stride, gain, eps,
        ROWS, BLOCK_N, SLICES, SLICE, DEPTH, EVEN, UPCAST, NORM, EIGHTS, BLOCKS,
    )  # fmt: skip
    if HAS_BIAS:
        y += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)[:, None]
    to = out + (part.to(tl.int64) * R + rows)[None, :] * out_stride + n[:, None]
    tl.store(to, y.to(out.dtype.element_ty), mask=(n < N)[:, None] & (rows < R)[None, :])


@triton.jit(do_not_specialize=["R"])
def sum_parts_kernel(
    parts, bias, out, R, N, out_stride, SPLITS: tl.constexpr, COLUMNS: tl.constexpr, HAS_BIAS: tl.constexpr
):
    """Program (row, columns): the parts [SPLITS, R, N] added in order, and the bias."""
    row = tl.program_id(0).to(tl.int64)
    n = tl.program_id(1) * COLUMNS + tl.arange(0, COLUMNS)
    y = tl.zeros([COLUMNS], tl.float32)
    for part in tl.range(SPLITS):
        y += tl.load(parts + (part * R + row) * N + n, mask=n < N, other=0.0)
    if HAS_BIAS:
        y += tl.load(bias + n, mask=n < N, other=0.0).to(tl.float32)
    tl.store(out + row * out_stride + n, y.to(out.dtype.element_ty), mask=n < N)


def prefers_kernel(rows: int, N: int, H: int, device: torch.device) -> bool:
    """Whether the kernel is predicted to beat torch.nn.functional.linear; a measured table belongs here.

    Up to 16 rows the inputs add at most half of W's bytes to what L2 sends, 6.5 TB/s, about what it can; a library's
    GEMM has tiles of 64 rows or more there and often one more kernel to add its parts. With more rows a tile of 32 rows
    of W would read inputs as large as itself. Narrow layers are bound by launches, where a library's are as good.
    """
    return rows <= 16 and N >= 512 and device.type == "cuda" and card.card_of(device).capability >= (8, 0)


def skinny_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """x @ weightᵀ + bias for few rows; the kernel carries no grad, and steps back where one is wanted.

    Args:
        x: [R, H] bfloat16, float16 or float32 (any dtype on a CPU), rows at any stride.
        weight: [N, H] of the same dtype, rows at any stride ≥ H, such as the first rows of a taller matrix.
        bias: [N] of the same dtype.
        out: [R, N] of the same dtype, written and returned; none of the inputs.

    Returns:
        [R, N] in x's dtype, summed in float32. From the kernel a row's bits depend on x's row, weight and bias alone.
        More than 64 rows, shapes that the kernel does not pay for, unaligned tensors and CPU tensors go to
        torch.nn.functional.linear, whose bits may depend on R.

    Raises:
        ValueError: shapes or devices that do not fit, a bias or out that does not.
        TypeError: x and weight of different dtypes.
    """
    if x.ndim != 2 or weight.ndim != 2 or x.shape[1] != weight.shape[1] or x.dtype != weight.dtype:
        raise _misfit(x, weight)
    if out is not None:
        _check_out(x, weight, out)
    if (INTERPRETED or x.is_cuda) and suits_kernel(x, weight, bias, out):
        with on_device(x.device):
            return linear_by_kernel(x, weight, bias, out)
    return F.linear(x, weight, bias) if out is None else F.linear(x, weight, bias, out=out)  # type: ignore[call-arg]


def suits_kernel(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> bool:
    """Whether the kernel takes these tensors and is preferred for them; interpreted, whether it takes them."""
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return False
    if x.stride(1) != 1 or (out is not None and out.stride(1) != 1):
        return False
    return takes_rows(len(x), weight) and (INTERPRETED or _wide(x))


def takes_rows(R: int, weight: Tensor) -> bool:
    """The same of R rows that start at multiples of 16 bytes, which need not be there yet."""
    N, H = weight.shape
    # Three products of tf32 for each one keep float32's accuracy, and registers for no more than 32 rows.
    most = 32 if weight.dtype == torch.float32 else MOST_ROWS
    if not 0 < R <= most or N == 0 or H == 0 or weight.stride(1) != 1:
        return False
    if INTERPRETED:
        return weight.dtype in (torch.bfloat16, torch.float16, torch.float32)
    halves = weight.dtype in (torch.bfloat16, torch.float16)
    return halves and prefers_kernel(R, N, H, weight.device) and _wide(weight)


def linear_by_kernel(
    x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None, norm: Norm | None = None
) -> Tensor:
    """`skinny_linear` by the kernel, whatever is preferred, of x or of its norm. R ≤ 64 (32 of float32), last strides
    of 1."""
    (R, H), N = x.shape, weight.shape[0]
    check_bias(bias, N, x)
    if weight.device != x.device:
        raise ValueError(f"weight is on {weight.device} and x on {x.device}: move one of them")
    if out is None:
        out = x.new_empty(R, N)
    cut = configuration(R, N, H, x.element_size(), card.card_of(x.device), norm is not None)
    parts = out if cut.splits == 1 else x.new_empty(cut.splits * R, N, dtype=torch.float32)
    launch: Any = linear_kernel[(-(-N // cut.BLOCK_N), cut.splits)]
    launch(
        x, weight, x if bias is None else bias.contiguous(), parts, R, N, H, x.stride(0), weight.stride(0),
        parts.stride(0), cut.steps, *norm_arguments(norm, x),
        HAS_BIAS=bias is not None and cut.splits == 1, **tile_constants(cut, x), **norm_constants(norm, x),
    )  # fmt: skip
    if cut.splits > 1:
        _sum_parts(parts, bias, out, cut.splits)
    return out


def _sum_parts(parts: Tensor, bias: Tensor | None, out: Tensor, splits: int) -> None:
    R, N = out.shape
    launch: Any = sum_parts_kernel[(R, -(-N // SUM_COLUMNS))]
    launch(
        parts, out if bias is None else bias.contiguous(), out, R, N, out.stride(0),
        SPLITS=splits, COLUMNS=SUM_COLUMNS, HAS_BIAS=bias is not None, num_warps=WARPS,
    )  # fmt: skip


def _wide(rows: Tensor) -> bool:
    """Whether Triton will take them for aligned: pointer, row stride and H multiples of 16."""
    return rows.data_ptr() % 16 == 0 and rows.stride(0) % 16 == 0 and rows.shape[1] % 16 == 0


def check_bias(bias: Tensor | None, N: int, x: Tensor) -> None:
    if bias is not None and (bias.shape != (N,) or bias.dtype != x.dtype or bias.device != x.device):
        raise ValueError(
            f"bias is {list(bias.shape)} {bias.dtype} on {bias.device}: expected [{N}] {x.dtype} on {x.device}"
        )


def _check_out(x: Tensor, weight: Tensor, out: Tensor) -> None:
    shape = (x.shape[0], weight.shape[0])
    if out.shape != shape or out.dtype != x.dtype or out.device != x.device:
        raise ValueError(
            f"out is {list(out.shape)} {out.dtype} on {out.device}: expected {list(shape)} {x.dtype} on {x.device}"
        )


def _misfit(x: Tensor, weight: Tensor) -> Exception:
    if x.dtype != weight.dtype:
        return TypeError(f"x is {x.dtype} and weight {weight.dtype}: convert one of them")
    return ValueError(
        f"x has shape {list(x.shape)} and weight {list(weight.shape)}: expected [R, H] and [N, H] of one H;"
        " flatten leading dimensions"
    )
