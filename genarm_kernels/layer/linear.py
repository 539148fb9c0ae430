"""A linear layer for 1 to 64 rows, as fast as its weights can be read.

    y[r, n] = Σ_k x[r, k] W[n, k] + bias[n]          float32 sums; one rounding, to x's dtype

It reads the N·H weights once, the R·H inputs once per tile of rows of W (from L2), and writes R·N outputs.

A program owns 32 or 64 rows of W and walks along H in steps of 256 columns (128 of float32). Its 4 warps share a step
by columns: a warp multiplies its own 64 (32), so nothing in shared memory is read twice, and the warps' sums are added
once, at the end. The configuration follows from shapes, and an element's sum has one order for every R: R decides
how wide the tile is and how much is in flight.

Bytes in flight. 4.3 TB/s for about 1 µs of latency under load are 4.3 MB, 33 KB for each of 132 SMs; twice that is
the aim. A step copies 32 or 64 rows · 512 bytes = 16 or 32 KB of W to shared memory by 16-byte copies that wait for
nobody, `depth` steps ahead. R ≤ 16: with N ≤ 4,224 an SM has one program, 8 steps ahead, 128 KB; with more it has two,
at least 4 · 16 or 2 · 32 KB each, 128 KB. Inputs come on top, ROWS · 512 bytes per step. So W is not split to fill the
chip: half of the SMs with 128 KB each, N = 2,048, have 8 MB in flight. Only under 32 tiles does an SM's own rate bound
the time; then a program takes a part of H, and a second kernel adds the parts in order.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from functools import cache
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor
from triton.runtime import driver

from genarm_kernels.dispatch import INTERPRETED, on_device

MOST_ROWS = 64
WARPS = 4
STEP_BYTES = 512  # of a row of W
SMS = 132
# From so many rows of W on a tile has 64: half the inputs' traffic, and still two programs per SM.
TALL = 64 * 2 * SMS
DEPTH = 8
# Shared memory of a program on an H200; per_program_bytes asks the device at hand.
SHARED_BYTES = 232448
# Predictions that decide on splits: what one SM can take, what all of them can, what a second kernel costs.
SM_BANDWIDTH, BANDWIDTH, SECOND_KERNEL = 110e9, 4.3e12, 3e-6
SUM_COLUMNS = 512


class Configuration(NamedTuple):
    """How a launch is cut. ROWS and BLOCK_N are a tile's, depth the steps in flight, splits the parts of H."""

    ROWS: int
    BLOCK_N: int
    depth: int
    splits: int
    steps: int  # of one part


@triton.jit(do_not_specialize=["R", "steps"])
def linear_kernel(
    x, weight, bias, out, R, N, H, x_stride, weight_stride, out_stride, steps,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, SLICES: tl.constexpr, SLICE: tl.constexpr, DEPTH: tl.constexpr,
    EVEN: tl.constexpr, HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr,
):  # fmt: skip
    """Program (tile of W, part of H). EVEN: H is a multiple of a step. out is [splits, R, N], rows out_stride apart."""
    STEP: tl.constexpr = SLICES * SLICE
    n = tl.program_id(0) * BLOCK_N + tl.arange(0, BLOCK_N)
    rows = tl.arange(0, ROWS)
    part = tl.program_id(1)
    first, last = part * steps, tl.minimum((part + 1) * steps, tl.cdiv(H, STEP))
    k = tl.arange(0, SLICES)[:, None, None] * SLICE + tl.arange(0, SLICE)[None, None, :]
    # The last tile reads its last row again rather than have a mask in the loop; what comes of it is not stored.
    weights = weight + tl.minimum(n, N - 1).to(tl.int64)[None, :, None] * weight_stride + k  # [SLICES, BLOCK_N, SLICE]
    inputs = x + rows.to(tl.int64)[None, :, None] * x_stride + k  # [SLICES, ROWS, SLICE]
    live = (rows < R)[None, :, None]
    sums = tl.zeros([SLICES, BLOCK_N, ROWS], tl.float32)
    # A loop of `num_stages` has one step fewer in flight.
    for step in tl.range(first, last, num_stages=DEPTH + 1):
        at = step * STEP
        if EVEN:
            w = tl.load(weights + at)
            v = tl.load(inputs + at, mask=live, other=0.0)
        else:
            w = tl.load(weights + at, mask=k < H - at, other=0.0)
            v = tl.load(inputs + at, mask=live & (k < H - at), other=0.0)
        if UPCAST:
            w, v = w.to(tl.float32), v.to(tl.float32)
        # W stands left, where a tile is 16 rows at least: x's rows may then be 8.
        sums = tl.dot(w, tl.trans(v, 0, 2, 1), sums, input_precision="tf32x3")
    y = tl.sum(sums, 0)
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
    return rows <= 16 and N >= 512 and device.type == "cuda" and _capability(device) >= (8, 0)


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
    (R, H), N = x.shape, weight.shape[0]
    if torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in (x, weight, bias)):
        return False
    # Three products of tf32 for each one keep float32's accuracy, and registers for no more than 32 rows.
    most = 32 if x.dtype == torch.float32 else MOST_ROWS
    if not 0 < R <= most or N == 0 or H == 0 or x.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        return False
    if x.stride(1) != 1 or weight.stride(1) != 1 or (out is not None and out.stride(1) != 1):
        return False
    return INTERPRETED or (
        x.dtype != torch.float32 and prefers_kernel(R, N, H, x.device) and _wide(x, H) and _wide(weight, H)
    )


def linear_by_kernel(x: Tensor, weight: Tensor, bias: Tensor | None = None, out: Tensor | None = None) -> Tensor:
    """`skinny_linear` by the kernel, whatever is preferred. R ≤ 64 (32 of float32), last strides of 1."""
    (R, H), N = x.shape, weight.shape[0]
    if bias is not None and (bias.shape != (N,) or bias.dtype != x.dtype or bias.device != x.device):
        raise ValueError(
            f"bias is {list(bias.shape)} {bias.dtype} on {bias.device}: expected [{N}] {x.dtype} on {x.device}"
        )
    if weight.device != x.device:
        raise ValueError(f"weight is on {weight.device} and x on {x.device}: move one of them")
    if out is None:
        out = x.new_empty(R, N)
    cut = configuration(R, N, H, x.element_size(), per_program_bytes(x.device))
    parts = out if cut.splits == 1 else x.new_empty(cut.splits * R, N, dtype=torch.float32)
    step = STEP_BYTES // x.element_size()
    launch: Any = linear_kernel[(-(-N // cut.BLOCK_N), cut.splits)]
    launch(
        x, weight, x if bias is None else bias.contiguous(), parts, R, N, H, x.stride(0), weight.stride(0),
        parts.stride(0), cut.steps,
        ROWS=cut.ROWS, BLOCK_N=cut.BLOCK_N, SLICES=WARPS, SLICE=step // WARPS, DEPTH=cut.depth, EVEN=H % step == 0,
        HAS_BIAS=bias is not None and cut.splits == 1, UPCAST=INTERPRETED, num_warps=WARPS,
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


@cache
def configuration(R: int, N: int, H: int, itemsize: int, shared_bytes: int = SHARED_BYTES) -> Configuration:
    """How a call is cut: by N, H and the dtype, and by R no more than rounded up, which no sum's order depends on."""
    ROWS = next(rows for rows in (8, 16, 32, 64) if rows >= R)
    BLOCK_N = 64 if N >= TALL and ROWS <= 32 and itemsize == 2 else 32
    steps = -(-H * itemsize // STEP_BYTES)
    splits = _splits(-(-N // 32), N * H * itemsize, steps)
    programs = -(-N // BLOCK_N) * splits
    a_step = (BLOCK_N + ROWS) * STEP_BYTES
    room = shared_bytes if programs <= SMS else shared_bytes // 2 - 1024
    depth = max(1, min(DEPTH, room // a_step))
    part = -(-steps // splits)
    return Configuration(ROWS, BLOCK_N, depth, -(-steps // part), part)


def _splits(tiles: int, size: int, steps: int) -> int:
    """Parts of H: several where that is predicted to save more than the kernel that adds them."""
    alone, together = size / (min(tiles, SMS) * SM_BANDWIDTH), size / BANDWIDTH
    return min(SMS // tiles, -(-steps // 4)) if alone - together > SECOND_KERNEL else 1


@cache
def per_program_bytes(device: torch.device) -> int:
    """Shared memory that one program may take."""
    if device.type != "cuda":
        return SHARED_BYTES
    active: Any = driver.active
    return int(active.utils.get_device_properties(device.index)["max_shared_mem"])


@cache
def _capability(device: torch.device) -> tuple[int, int]:
    return torch.cuda.get_device_capability(device)


def _wide(tensor: Tensor, H: int) -> bool:
    """Whether Triton will take it for aligned: pointer, row stride and H multiples of 16."""
    return tensor.data_ptr() % 16 == 0 and tensor.stride(0) % 16 == 0 and H % 16 == 0


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
