"""The product of few rows with a tile of W, which every kernel of a linear layer shares.

A program owns 32 or 64 rows of W and walks along H in steps of 256 columns (128 of float32). Its 4 warps share a step
by columns: a warp multiplies its own 64 (32), so nothing in shared memory is read twice, and the warps' sums are added
once, at the end. R decides how wide the tile is and how much is in flight (cut.py), and not the order of a sum.

With a `Norm` x is a residual whose RMSNorm is multiplied, as `add_rms_norm` would have it; on a GPU but for the order
in which sums of eights are added, which is one for every number of rows. Its writers have left these (residual.py);
every program adds up the H/8 sums of its rows, R · H/2 bytes from L2, and scales what it multiplies.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from typing import Any, NamedTuple

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.layer.cut import STEP_BYTES, Configuration
from genarm_kernels.layer.norm import block_size

WARPS = 4


class Norm(NamedTuple):
    """What makes of a residual [R, H] its RMSNorm."""

    squares: Tensor  # [R, H/8, 0 from there to a whole block] float32: the sums of the squares of 8 columns each
    weight: Tensor  # [H]
    eps: float


@triton.jit
def row_scales(squares, stride, rows, R, H, eps, ROWS: tl.constexpr, EIGHTS: tl.constexpr, BLOCKS: tl.constexpr):
    """1 / √(mean(x²) + ε) of every row: its sums of eights in blocks of EIGHTS, as add_rms_norm adds its own."""
    total = tl.zeros([ROWS, EIGHTS], tl.float32)
    for block in tl.static_range(BLOCKS):
        place = block * EIGHTS + tl.arange(0, EIGHTS)
        at = squares + rows.to(tl.int64)[:, None] * stride + place[None, :]
        total += tl.load(at, mask=(rows < R)[:, None], other=0.0)
    return tl.rsqrt(tl.sum(total, 1) / H + eps)


@triton.jit
def products(
    x, weight, n, last_row, first, last, R, H, x_stride, weight_stride, squares, squares_stride, gain, eps,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, SLICES: tl.constexpr, SLICE: tl.constexpr, DEPTH: tl.constexpr,
    EVEN: tl.constexpr, UPCAST: tl.constexpr, NORM: tl.constexpr, EIGHTS: tl.constexpr, BLOCKS: tl.constexpr,
):  # fmt: skip
    """[BLOCK_N, ROWS] float32: rows n of W, none beyond the last one, times x's rows over the steps from first to last.

    With NORM x's rows are scaled by `scales` [ROWS] and its columns by `gain`, each rounded to x's dtype."""
    STEP: tl.constexpr = SLICES * SLICE
    rows = tl.arange(0, ROWS)
    k = tl.arange(0, SLICES)[:, None, None] * SLICE + tl.arange(0, SLICE)[None, None, :]
    # The last tile reads its last row again rather than have a mask in the loop; what comes of it is not stored.
    weights = (
        weight + tl.minimum(n, last_row).to(tl.int64)[None, :, None] * weight_stride + k
    )  # [SLICES, BLOCK_N, SLICE]
    inputs = x + rows.to(tl.int64)[None, :, None] * x_stride + k  # [SLICES, ROWS, SLICE]
    live = (rows < R)[None, :, None]
    sums = tl.zeros([SLICES, BLOCK_N, ROWS], tl.float32)
    scales = tl.zeros([ROWS], tl.float32)
    # A loop of `num_stages` has one step fewer in flight.
    for step in tl.range(first, last, num_stages=DEPTH + 1):
        at = step * STEP
        if EVEN:
            w = tl.load(weights + at)
            v = tl.load(inputs + at, mask=live, other=0.0)
        else:
            w = tl.load(weights + at, mask=k < H - at, other=0.0)
            v = tl.load(inputs + at, mask=live & (k < H - at), other=0.0)
        if NORM:
            if step == first:  # here, so that the first steps are on their way meanwhile
                scales = row_scales(squares, squares_stride, rows, R, H, eps, ROWS, EIGHTS, BLOCKS)
            g = tl.load(gain + k + at) if EVEN else tl.load(gain + k + at, mask=k < H - at, other=0.0)
            scaled = (v.to(tl.float32) * scales[None, :, None]).to(v.dtype)
            v = (scaled.to(tl.float32) * g.to(tl.float32)).to(v.dtype)
        if UPCAST:
            w, v = w.to(tl.float32), v.to(tl.float32)
        # W stands left, where a tile is 16 rows at least: x's rows may then be 8.
        sums = tl.dot(w, tl.trans(v, 0, 2, 1), sums, input_precision="tf32x3")
    return tl.sum(sums, 0)


def tile_constants(cut: Configuration, x: Tensor) -> dict[str, Any]:
    """What `products` takes of how a launch is cut."""
    step = STEP_BYTES // x.element_size()
    return {
        "ROWS": cut.ROWS,
        "BLOCK_N": cut.BLOCK_N,
        "SLICES": WARPS,
        "SLICE": step // WARPS,
        "DEPTH": cut.depth,
        "EVEN": x.shape[1] % step == 0,
        "UPCAST": INTERPRETED,
        "num_warps": WARPS,
    }


def norm_arguments(norm: Norm | None, x: Tensor) -> tuple[Any, ...]:
    """What a kernel takes of a norm, or of none."""
    return (x, 0, x, 0.0) if norm is None else (norm.squares, norm.squares.stride(0), norm.weight, norm.eps)


def norm_constants(norm: Norm | None, x: Tensor) -> dict[str, Any]:
    if norm is None:
        return {"NORM": False, "EIGHTS": 1, "BLOCKS": 1}
    block = block_size(x.shape[1], x.element_size())
    return {"NORM": True, "EIGHTS": block // 8, "BLOCKS": -(-x.shape[1] // block)}
