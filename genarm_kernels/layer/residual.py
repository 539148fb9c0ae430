"""The residual stream of few rows between a layer's products: one writer, and no kernel of its own for the norm.

    residual += x Wᵀ + bias + B h          h = x Aᵀ, A below W's own rows             (o_proj and down_proj)
    z         = RMSNorm(residual) Wᵀ       where it is loaded                         (gate_up_proj, qkv_proj, lm_head)

The same numbers as `skinny_linear` and `add_rms_norm` give, in the interpreter bit for bit, in two kernels instead of
three. A program owns a tile of the residual's columns: it reads and writes them once, and leaves the squares of what it
wrote, summed by eights, for the products that follow. Beside W it reads its columns of B, N · rank elements for each
adapter in all.

The expand needs all of h, which other programs make. Those that own A's rows come first in the grid and wait for
nobody; the others multiply their own tile, which takes as long, before they ask whether h is there. A GPU starts the
programs of a grid in their order, so whoever waits does so for programs that run. The last one to have seen h sets both
counters back to 0.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from dataclasses import dataclass
from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels import card
from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer.cut import configuration
from genarm_kernels.layer.linear import check_bias, linear_by_kernel, takes_rows
from genarm_kernels.layer.lora import Lora, check_adapters
from genarm_kernels.layer.norm import SMALLEST, sum_eight_squares
from genarm_kernels.layer.products import Norm, products, tile_constants

ROWS_AT_MOST = 16
COUNTERS = 2


@dataclass(frozen=True, slots=True)
class Residual:
    """R rows of a residual stream on a GPU, and what its writers leave for its readers."""

    values: Tensor  # [R, N]
    squares: Tensor  # [R, N/8, 0 from there to a whole block] float32: the sums of the squares of 8 columns each
    counters: Tensor  # [COUNTERS] int32, 0 between launches; of one stream of launches alone


@triton.jit(do_not_specialize=["R"], do_not_specialize_on_alignment=["adapters", "counters"])
def add_linear_kernel(
    x, weight, bias, residual, squares, shrinks, up, adapters, counters, R, N, H,
    x_stride, weight_stride, residual_stride, squares_stride,
    ROWS: tl.constexpr, BLOCK_N: tl.constexpr, SLICES: tl.constexpr, SLICE: tl.constexpr, DEPTH: tl.constexpr,
    EVEN: tl.constexpr, HAS_BIAS: tl.constexpr, UPCAST: tl.constexpr, RANK: tl.constexpr, SHRINKS: tl.constexpr,
    FIRST: tl.constexpr,
):  # fmt: skip
    """One program per tile of W: FIRST that have A's SHRINKS rows, then those of its own N, one per tile of the
    residual. A tile's rows of W are those it has in a product by itself."""
    rows = tl.arange(0, ROWS)
    tile = tl.program_id(0) - FIRST
    start, stop = tile * BLOCK_N, N
    if tile < 0:
        start, stop = N // BLOCK_N * BLOCK_N + (tile + FIRST) * BLOCK_N, N + SHRINKS
    n = start + tl.arange(0, BLOCK_N)
    y = products(
        x, weight, n, stop - 1, 0, tl.cdiv(H, SLICES * SLICE), R, H, x_stride, weight_stride, weight, 0, weight, 0.0,
        ROWS, BLOCK_N, SLICES, SLICE, DEPTH, EVEN, UPCAST, False, 1, 1,
    )  # fmt: skip
    if HAS_BIAS:
        y += tl.load(bias + n, mask=n < stop, other=0.0).to(tl.float32)[:, None]
    z = tl.trans(y).to(residual.dtype.element_ty)  # [ROWS, BLOCK_N], rounded as a product by itself is
    live = (rows < R)[:, None] & (n < stop)[None, :]
    if tile < 0:
        tl.store(shrinks + rows[:, None] * SHRINKS + (n - N)[None, :], z, mask=live & (n >= N)[None, :])
        # Everybody's part is stored before one says so.
        tl.debug_barrier()
        tl.atomic_add(counters, 1)
    else:
        to = residual + rows.to(tl.int64)[:, None] * residual_stride + n[None, :]
        value = tl.load(to, mask=live, other=0.0).to(tl.float32) + tl.where(live, z.to(tl.float32), 0.0)
        if RANK > 0:
            value += expand_tile(
                shrinks, up, adapters, counters, FIRST, tl.num_programs(0) - FIRST, rows, n, live, R, N, SHRINKS, RANK
            )
        rounded = value.to(residual.dtype.element_ty)
        tl.store(to, rounded, mask=live)
        store_squares(squares, squares_stride, rounded.to(tl.float32), rows, tile, R, N, ROWS, BLOCK_N)


@triton.jit
def wait_for(counters, awaited, waiting):
    """Until so many have arrived at the first counter; the last of those who wait leaves both counters 0."""
    arrived = tl.atomic_add(counters, 0)
    while arrived < awaited:
        arrived = tl.atomic_add(counters, 0)
    if tl.atomic_add(counters + 1, 1) == waiting - 1:
        tl.store(counters, 0)
        tl.store(counters + 1, 0)


@triton.jit
def expand_tile(
    shrinks, up, adapters, counters, awaited, waiting, rows, n, live, R, N, SHRINKS: tl.constexpr, RANK: tl.constexpr
):  # fmt: skip
    """B h at a tile [ROWS, BLOCK_N] of a layer of one target, once h is there; nothing is read for adapter −1.

    The order of its sums is expand_columns'."""
    STEP: tl.constexpr = min(256 // up.dtype.element_ty.primitive_bitwidth, triton.next_power_of_2(RANK))
    adapter = tl.load(adapters + rows, mask=rows < R, other=-1)
    own = live & (adapter >= 0)[:, None]
    up += (adapter.to(tl.int64)[:, None] * N + n[None, :]) * RANK
    shrinks += rows * SHRINKS + adapter * RANK
    block = load_up(up, own, 0, RANK, STEP)  # on its way while the others finish
    wait_for(counters, awaited, waiting)
    total = tl.sum(block * load_shrinks(shrinks, adapter, 0, RANK, STEP), 2)
    # Not unrolled: the loads of a second step would not fit the registers.
    for start in range(STEP, RANK, STEP):
        total += tl.sum(load_up(up, own, start, RANK, STEP) * load_shrinks(shrinks, adapter, start, RANK, STEP), 2)
    return total


@triton.jit
def load_up(up, own, start, RANK: tl.constexpr, STEP: tl.constexpr):
    """[ROWS, BLOCK_N, STEP] float32: so much of each row's adapter's B, 0 where it has none."""
    place = start + tl.arange(0, STEP)
    mask = own[:, :, None] & (place < RANK)[None, None, :]
    return tl.load(up[:, :, None] + place[None, None, :], mask=mask, other=0.0).to(tl.float32)


@triton.jit
def load_shrinks(shrinks, adapter, start, RANK: tl.constexpr, STEP: tl.constexpr):
    """[ROWS, 1, STEP] float32: so much of each row's h, which other processors have written in this launch."""
    place = start + tl.arange(0, STEP)
    mask = (adapter >= 0)[:, None] & (place < RANK)[None, :]
    h = tl.load(shrinks[:, None] + place[None, :], mask=mask, other=0.0, cache_modifier=".cg")
    return h.to(tl.float32)[:, None, :]


@triton.jit
def store_squares(squares, stride, value, rows, tile, R, N, ROWS: tl.constexpr, BLOCK: tl.constexpr):
    """The sums of the squares of eight columns each of a tile [ROWS, BLOCK], 0 beyond the N columns."""
    EIGHTS: tl.constexpr = BLOCK // 8
    sums = tl.reshape(sum_eight_squares(tl.reshape(value, [ROWS * BLOCK])), [ROWS, EIGHTS])
    place = tile * EIGHTS + tl.arange(0, EIGHTS)
    mask = (rows < R)[:, None] & (place < tl.cdiv(N, 8))[None, :]
    tl.store(squares + rows.to(tl.int64)[:, None] * stride + place[None, :], sums, mask=mask)


def reads_residual(rows: int, norm: Tensor, weight: Tensor) -> bool:
    """Whether `normed_linear` is for so many rows, a norm's weight [N] and a layer [·, N]."""
    # Up to 256 columns a GPU's threads would share out the sums of a row in another way for each size of a tile.
    long = INTERPRETED or len(norm) > SMALLEST
    return long and rows <= ROWS_AT_MOST and norm.dtype == weight.dtype and takes_rows(rows, weight)


def adds_residual(rows: int, weight: Tensor) -> bool:
    """Whether `add_linear` is for so many rows and a layer [N + shrinks, ·]."""
    if rows > ROWS_AT_MOST or not takes_rows(rows, weight):
        return False
    return configuration(rows, *weight.shape, weight.element_size(), card.card_of(weight.device)).splits == 1


def normed_linear(residual: Residual, norm: Tensor, eps: float, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """RMSNorm(residual) Wᵀ + bias -> [R, M]; `reads_residual` says whether it is for them.

    Args:
        residual: rows [R, N], R ≤ 16, with their squares.
        norm: [N], the norm's weight; eps is added to the mean of the squares.
        weight: [M, N] of the residual's dtype, rows at any stride.
        bias: [M] of the same dtype.

    The rows of the result start at multiples of 16 bytes, whatever M is.
    """
    values = residual.values
    with on_device(values.device):
        out = padded_rows(values, len(weight))
        return linear_by_kernel(values, weight, bias, out, Norm(residual.squares, norm, eps))


def padded_rows(like: Tensor, columns: int) -> Tensor:
    """Room for as many rows of so many columns, each at a multiple of 16 bytes."""
    whole = 16 // like.element_size()
    return like.new_empty(len(like), -(-columns // whole) * whole)[:, :columns]


def add_linear(
    residual: Residual, x: Tensor, weight: Tensor, bias: Tensor | None = None, lora: Lora | None = None
) -> None:
    """residual += x Wᵀ + bias, and its LoRA expand, in place; `adds_residual` says whether it is for them.

    Args:
        residual: rows [R, N], R ≤ 16; their squares become those of the sums.
        x: [R, H] of the residual's dtype, its rows at multiples of 16 bytes.
        weight: [N + shrinks, H], the layer's own rows and below them the adapters' A.
        bias: [N + shrinks] of the same dtype.
        lora: the adapters on the layer, with widths (N,).

    Raises:
        ValueError: shapes, dtypes or devices that do not fit together.
    """
    values, rows = residual.values, len(residual.values)
    N, shrinks = values.shape[1], 0 if lora is None else lora.shrinks
    if x.shape != (rows, weight.shape[1]) or x.stride(1) != 1 or len(weight) != N + shrinks:
        raise ValueError(
            f"x is {list(x.shape)} and weight {list(weight.shape)}: expected [{rows}, H], contiguous rows, and "
            f"[{N} + {shrinks} shrinks, H]"
        )
    if len({(each.dtype, each.device) for each in (values, x, weight)}) > 1:
        raise ValueError(
            f"x is {x.dtype} on {x.device} and weight {weight.dtype} on {weight.device}: convert or move them to the "
            f"residual's {values.dtype} on {values.device}"
        )
    check_bias(bias, N + shrinks, x)
    h = values.new_empty(rows, shrinks)
    if lora is not None:
        check_adapters(lora, values, (N,))
    with on_device(values.device):
        _launch(residual, x, weight, bias, lora, h)


def _launch(residual: Residual, x: Tensor, weight: Tensor, bias: Tensor | None, lora: Lora | None, h: Tensor) -> None:
    (R, N), shrinks = residual.values.shape, h.shape[1]
    cut = configuration(R, *weight.shape, x.element_size(), card.card_of(x.device))
    first = -(-(N % cut.BLOCK_N + shrinks) // cut.BLOCK_N) if shrinks else 0
    launch: Any = add_linear_kernel[(first + -(-N // cut.BLOCK_N),)]
    launch(
        x, weight, x if bias is None else bias.contiguous(), residual.values, residual.squares, h,
        x if lora is None else lora.up, residual.counters if lora is None else lora.adapters, residual.counters,
        R, N, x.shape[1], x.stride(0), weight.stride(0), residual.values.stride(0), residual.squares.stride(0),
        HAS_BIAS=bias is not None, RANK=0 if lora is None else lora.rank, SHRINKS=shrinks,
        FIRST=first, **tile_constants(cut, x),
    )  # fmt: skip
