"""A block of logits in token_logprobs: row by row to log p and onehot − p, or column by column to (onehot − p) · g.

    total_n = log Σ_v exp z_nv        log p_n = z_n[y_n] − total_n        p_nv = exp(z_nv − total_n)

C rows of V logits are read once for the totals; with slopes they are read once more and overwritten, C·V elements each
time. One program per row keeps its row in L2 between the two (256 KB of bfloat16 at V = 128k, 34 MB on 132 SMs at a
time) while the block may be larger. A block is 8,192 logits to 8 warps: a lane has 4 loads of 16 bytes on their way, a
program 16 KB, and the 3 programs that share an SM 48 KB. Columns are one read and one write.

A row is summed in pieces of two blocks, by lanes and then across them, and its total is the sum of its pieces' in one
order. With fewer than two rows per SM pieces have programs of their own, one kernel for their sums and one for the
rest. So a row's bits depend neither on the rows beside it nor on the GPU.

With floor bytes f = 2 (rows without slopes), 6 (with) or 4 (columns) per bfloat16 logit, 4.3 TB/s give f·C·V / 4.3e12
seconds where nothing comes from L2; the product before it takes 2·H·C·V operations, at H = 4,096 and 800 T per second
about 8 times as long as the 6 bytes.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels import card
from genarm_kernels.sampling.groups import LOWEST

BLOCK_BYTES, WARP_BYTES = 16384, 2048
COLUMNS = 2048
# Blocks of a piece, and the fewest places for a row's pieces: as many for every usual vocabulary, one variant for all.
PIECE = tl.constexpr(2)
LEAST_PLACES = 32
# Of one row each, per processor: with fewer rows than that their pieces are apart.
PROGRAMS = 2
# One value per row, at any address.
OF_ROWS = ["token_ids", "logprobs", "totals", "grads"]


@triton.jit
def accurate(z):
    """Logits in the precision they are reduced in."""
    return z if z.dtype == tl.float64 else z.to(tl.float32)


@triton.jit
def load_last(z, ids, V, LANE: tl.constexpr):
    """Logits at ids, −inf from V on. Sixteen bytes are read or not: up to 14 of the row's padding."""
    values = tl.load(z + ids, mask=ids // LANE * LANE < V, other=float("-inf"))
    return tl.where(ids < V, accurate(values), float("-inf"))


@triton.jit
def add_block(peaks, sums, z, LANE: tl.constexpr):
    """Running peaks and sums of a lane's LANE neighbours, with z [BLOCK] added."""
    z = tl.reshape(z, [z.shape[0] // LANE, LANE])
    # Finite from the start, so that −inf is 0 in the sum; NaN and +inf make it NaN.
    top = tl.maximum(peaks, tl.max(z, 1))
    return top, sums * tl.exp(peaks - top) + tl.sum(tl.exp(z - top[:, None]), 1)


@triton.jit
def piece_sum(z, piece, V, LAST: tl.constexpr, BLOCK: tl.constexpr, LANE: tl.constexpr):
    """The largest of a piece's logits, and Σ exp(logit − largest). A piece that cannot be the row's last has no end."""
    ACCURATE: tl.constexpr = tl.float64 if z.dtype.element_ty == tl.float64 else tl.float32
    ids = tl.arange(0, BLOCK)
    peaks = tl.full([BLOCK // LANE], LOWEST, ACCURATE)
    sums = tl.zeros([BLOCK // LANE], ACCURATE)
    start, whole = piece * PIECE * BLOCK, V // BLOCK * BLOCK
    stop = tl.minimum(start + PIECE * BLOCK, V)
    for first in range(start, tl.minimum(stop, whole), BLOCK):
        peaks, sums = add_block(peaks, sums, accurate(tl.load(z + first + ids)), LANE)
    if LAST and stop > whole:
        peaks, sums = add_block(peaks, sums, load_last(z, whole + ids, V, LANE), LANE)
    peak = tl.max(peaks, 0)
    return peak, tl.sum(sums * tl.exp(peaks - peak), 0)


@triton.jit
def piece_sums(z, places, pieces, V, BLOCK: tl.constexpr, LANE: tl.constexpr):
    """Peaks and sums of all of a row's pieces, at the first of its places."""
    ACCURATE: tl.constexpr = tl.float64 if z.dtype.element_ty == tl.float64 else tl.float32
    peaks, sums = tl.full(places.shape, LOWEST, ACCURATE), tl.zeros(places.shape, ACCURATE)
    for piece in range(pieces - 1):
        peak, total = piece_sum(z, piece, V, False, BLOCK, LANE)
        peaks, sums = tl.where(places == piece, peak, peaks), tl.where(places == piece, total, sums)
    # The last behind the loop: in it the masks of the row's end would take registers all along.
    peak, total = piece_sum(z, pieces - 1, V, True, BLOCK, LANE)
    return tl.where(places == pieces - 1, peak, peaks), tl.where(places == pieces - 1, total, sums)


@triton.jit
def token_logit(z, token, V, ignore_index):
    """The token's logit; 0 for the id to ignore, NaN for one that does not exist."""
    there = (token >= 0) & (token < V) & (token != ignore_index)
    missing = tl.where(token == ignore_index, 0.0, float("nan"))
    return tl.where(there, accurate(tl.load(z + tl.where(there, token, 0))), missing)


@triton.jit
def slopes_of(z, total, at, place, ignored):
    """onehot − p, the one being at `place`; 0 in rows to ignore, NaN in rows whose total is."""
    return tl.where(ignored, 0.0, tl.where(at == place, 1.0, 0.0) - tl.exp(z - total))


@triton.jit(do_not_specialize=["V", "ignore_index"], do_not_specialize_on_alignment=OF_ROWS)
def piece_sums_kernel(
    logits, stride, token_ids, ignore_index, peaks, sums, picked, V, BLOCK: tl.constexpr, LANE: tl.constexpr
):
    """Program (row, piece): the piece's peak and sum; the first leaves the token's logit too."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    z = logits + row * stride
    peak, total = piece_sum(z, piece, V, True, BLOCK, LANE)
    tl.store(peaks + row * tl.num_programs(1) + piece, peak)
    tl.store(sums + row * tl.num_programs(1) + piece, total)
    if piece == 0:
        tl.store(picked + row, token_logit(z, tl.load(token_ids + row), V, ignore_index))


@triton.jit(do_not_specialize=["V", "ignore_index"], do_not_specialize_on_alignment=OF_ROWS)
def finish_rows_kernel(
    logits, stride, token_ids, ignore_index, peaks, sums, picked, logprobs, totals, V,
    APART: tl.constexpr, PLACES: tl.constexpr, SLOPES: tl.constexpr, BLOCK: tl.constexpr, LANE: tl.constexpr,
):  # fmt: skip
    """Program (row), or with its pieces apart (row, piece): log p and the row's total, by the first; with SLOPES the
    row or piece becomes onehot − p."""
    row, piece = tl.program_id(0).to(tl.int64), tl.program_id(1)
    z = logits + row * stride
    token = tl.load(token_ids + row)
    ignored = token == ignore_index
    places, pieces = tl.arange(0, PLACES), tl.cdiv(V, PIECE * BLOCK)
    if APART:
        logit = tl.load(picked + row)
        all_peaks = tl.load(peaks + row * pieces + places, mask=places < pieces, other=LOWEST)
        all_sums = tl.load(sums + row * pieces + places, mask=places < pieces, other=0.0)
    else:
        # Read before the sums' barrier: afterwards another warp may have overwritten it.
        logit = token_logit(z, token, V, ignore_index)
        all_peaks, all_sums = piece_sums(z, places, pieces, V, BLOCK, LANE)
    peak = tl.max(all_peaks, 0)
    total = peak + tl.log(tl.sum(all_sums * tl.exp(all_peaks - peak), 0))
    # An id that does not exist makes everything of its row NaN.
    total = tl.where(logit == logit, total, float("nan"))
    if piece == 0:
        tl.store(logprobs + row, tl.where(ignored, 0.0, logit - total))
        tl.store(totals + row, total)
    if SLOPES:
        ids, hot = tl.arange(0, BLOCK), token.to(tl.int32)
        start = piece * PIECE * BLOCK
        stop = tl.minimum(start + PIECE * BLOCK, V) if APART else V
        whole = V // BLOCK * BLOCK
        for first in range(start, tl.minimum(stop, whole), BLOCK):
            value = slopes_of(accurate(tl.load(z + first + ids)), total, first + ids, hot, ignored)
            tl.store(z + first + ids, value.to(z.dtype.element_ty))
        if stop > whole:
            ids += whole
            value = slopes_of(load_last(z, ids, V, LANE), total, ids, hot, ignored)
            tl.store(z + ids, value.to(z.dtype.element_ty), mask=ids // LANE * LANE < V)


@triton.jit(do_not_specialize=["width", "first", "ignore_index"], do_not_specialize_on_alignment=OF_ROWS)
def finish_columns_kernel(
    logits, stride, token_ids, ignore_index, totals, grads, width, first, COLUMNS: tl.constexpr, LANE: tl.constexpr
):
    """Program (row, block of columns): the logits of the ids from `first` on become (onehot − p) · the row's grad."""
    row, start = tl.program_id(0).to(tl.int64), tl.program_id(1) * COLUMNS
    token, total, grad = tl.load(token_ids + row), tl.load(totals + row), tl.load(grads + row)
    ignored = token == ignore_index
    z = logits + row * stride
    columns, hot = start + tl.arange(0, COLUMNS), (token - first).to(tl.int32)
    if start + COLUMNS <= width:
        value = slopes_of(accurate(tl.load(z + columns)), total, columns, hot, ignored) * grad
        tl.store(z + columns, value.to(z.dtype.element_ty))
    else:
        value = slopes_of(load_last(z, columns, width, LANE), total, columns, hot, ignored) * grad
        tl.store(z + columns, value.to(z.dtype.element_ty), mask=columns // LANE * LANE < width)


def finish_rows(
    logits: Tensor, token_ids: Tensor, ignore_index: int, logprobs: Tensor, totals: Tensor, slopes: bool
) -> None:
    """Logits [C, V] -> log p of the tokens and the rows' log-sum-exp, [C] each; slopes: logits become onehot − p.

    Rows start at multiples of 16 bytes, and what lies behind them to the next such multiple is written too.
    """
    C, V = logits.shape
    block, pieces = cut(V, logits.element_size())
    apart = pieces > 1 and are_apart(C, card.card_of(logits.device).processors)
    peaks, sums, picked = (logprobs.new_empty(C * each if apart else 0) for each in (pieces, pieces, 1))
    common = {
        "BLOCK": block,
        "LANE": 16 // logits.element_size(),
        "num_warps": max(1, block * logits.element_size() // WARP_BYTES),
    }
    rows = (logits, logits.stride(0), token_ids, ignore_index, peaks, sums, picked)
    if apart:
        launch: Any = piece_sums_kernel[(C, pieces)]
        launch(*rows, V, **common)
    launch = finish_rows_kernel[(C, pieces if apart and slopes else 1)]
    places = max(LEAST_PLACES, int(triton.next_power_of_2(pieces)))
    launch(*rows, logprobs, totals, V, APART=apart, PLACES=places, SLOPES=slopes, **common)


def cut(V: int, itemsize: int) -> tuple[int, int]:
    """Logits of a block, and pieces of a row: the order of its sums, in which neither other rows nor the GPU count."""
    block = min(BLOCK_BYTES // itemsize, max(256, int(triton.next_power_of_2(V))))
    return block, -(-V // (PIECE.value * block))


def are_apart(C: int, processors: int) -> bool:
    """Whether every piece of C rows has a program of its own: one per row would leave processors with less than two."""
    return PROGRAMS * processors > C


def finish_columns(
    logits: Tensor, token_ids: Tensor, ignore_index: int, totals: Tensor, grads: Tensor, first: int
) -> None:
    """Logits [N, width] of the ids from `first` on become (onehot − p) · grads, 0 in rows to ignore.

    Rows as in finish_rows; the grads of rows to ignore are finite.
    """
    N, width = logits.shape
    launch: Any = finish_columns_kernel[(N, -(-width // COLUMNS))]
    launch(
        logits, logits.stride(0), token_ids, ignore_index, totals, grads, width, first,
        COLUMNS=COLUMNS, LANE=16 // logits.element_size(), num_warps=COLUMNS * logits.element_size() // WARP_BYTES,
    )  # fmt: skip
