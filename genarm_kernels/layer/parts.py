"""What attention kernels leave of splits of a row's positions, and how the splits are added up.

A part is of one split and of N queries: peak, the largest score; total, Σ 2^(score − peak); and Σ 2^(score − peak) · v.
The parts of a row, head and tile lie side by side, those of its own cache first, those of its prefix behind.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from dataclasses import dataclass

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.layer.attention_layout import FINE, SPLITS
from genarm_kernels.sampling.groups import INFINITY, LOG2_E, LOWEST

_SPLITS, _FINE = tl.constexpr(SPLITS), tl.constexpr(FINE)
# The interpreter's dot takes float32 only.
_UPCAST = tl.constexpr(INTERPRETED)


@triton.jit
def row_splits(lengths, row, begun, positions, window, Q: tl.constexpr, WINDOWED: tl.constexpr, BLOCK: tl.constexpr):
    """A row's length without what it has ``begun`` with, its first live position, the positions of a split and the
    number of splits.

    A row of no positions has one split of none, so that there is a program that writes its zeros.
    """
    length = tl.minimum(tl.maximum(tl.load(lengths + row) - begun, 0), positions)
    first = 0
    if WINDOWED:
        first = tl.maximum(length - Q + 1 - window, 0)
    blocks = tl.cdiv(length - first, BLOCK)
    each = tl.maximum(tl.cdiv(blocks, _SPLITS), tl.where(blocks > _FINE, 2, 1))
    return length, first, each * BLOCK, tl.maximum(tl.cdiv(blocks, each), 1)


@triton.jit
def prefix_seen(lengths, shared, row, extent, positions, window, Q: tl.constexpr, WINDOWED: tl.constexpr):
    """Of rows that begin with a prefix of ``extent``: how much of it they begin with, their length with that, and from
    where to where their queries see it."""
    begun = tl.minimum(tl.maximum(tl.load(shared + row), 0), extent)
    length = tl.minimum(tl.maximum(tl.load(lengths + row), 0), begun + positions)
    first = begun * 0
    if WINDOWED:
        first = tl.maximum(length - Q + 1 - window, 0)
    return begun, length, first, tl.minimum(begun, length)


@triton.jit
def product(left, right):
    """The matrix product in float32."""
    if _UPCAST:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit
def attend(asked, k, v, seen, scale, peak, total, weighted):
    """What a part is with one more step of positions: scores [M, BLOCK] where a query sees them. ``total`` is kept by
    place in the step."""
    scores = tl.where(seen, product(asked, tl.trans(k)) * (scale * LOG2_E), -INFINITY)
    top = tl.maximum(peak, tl.max(scores, 1))
    shares = tl.exp2(scores - top[:, None])
    kept = tl.exp2(peak - top)
    total = total * kept[:, None] + shares
    weighted = weighted * kept[:, None] + product(shares.to(v.dtype), v)
    return top, total, weighted


@triton.jit
def weigh(weighted, sums, peaks, peak, n, d, is_query, in_head, begin, end, N, D: tl.constexpr, ROUND: tl.constexpr):
    """Add the values' sums of parts begin … end, in order."""
    for start in range(begin, end, ROUND):
        # All loads of a round are on their way before the first is added.
        own, parts = (), ()
        for i in tl.static_range(ROUND):
            live, part = is_query & (start + i < end), (start + i) * N
            own += (tl.load(peaks + part + n, mask=live, other=LOWEST, cache_modifier=".cg"),)
            values = sums + part * D + (n[:, None] * D + d[None, :])
            parts += (tl.load(values, mask=live[:, None] & in_head[None, :], other=0.0, cache_modifier=".cg"),)
        for i in tl.static_range(ROUND):
            weighted += parts[i] * tl.exp2(own[i] - peak)[:, None]
    return weighted


@triton.jit
def combine(
    sums, peaks, totals, out, row, head, tile, first, count, begin, end,
    Q: tl.constexpr, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, M: tl.constexpr, N: tl.constexpr,
    QUERIES: tl.constexpr, D_BLOCK: tl.constexpr, ROUND: tl.constexpr, BEGUN: tl.constexpr,
):  # fmt: skip
    """The parts of a tile's queries from `first` on, in one order whatever the row's length and whoever wrote them: the
    `count` of its own cache, then those from `begin` to `end`, of its prefix."""
    n = first + tl.arange(0, QUERIES)
    m = tile * M + n
    s, d = tl.arange(0, _SPLITS), tl.arange(0, D_BLOCK)
    is_query, in_head = (n < N) & (m < Q * G), d < D
    at, there = s[None, :] * N + n[:, None], is_query[:, None] & (s < count)[None, :]
    # Past L1, which does not see what other processors write.
    found = tl.load(peaks + at, mask=there, other=LOWEST, cache_modifier=".cg")
    peak = tl.max(found, 1)
    if BEGUN:
        also, these = at + begin * N, is_query[:, None] & (begin + s < end)[None, :]
        before = tl.load(peaks + also, mask=these, other=LOWEST, cache_modifier=".cg")
        peak = tl.maximum(peak, tl.max(before, 1))
    total = tl.load(totals + at, mask=there, other=0.0, cache_modifier=".cg")
    total = tl.sum(total * tl.exp2(found - peak[:, None]), 1)
    weighted = tl.zeros([QUERIES, D_BLOCK], tl.float32)
    weighted = weigh(weighted, sums, peaks, peak, n, d, is_query, in_head, 0, count, N, D, ROUND)
    if BEGUN:
        shared = tl.load(totals + also, mask=these, other=0.0, cache_modifier=".cg")
        total += tl.sum(shared * tl.exp2(before - peak[:, None]), 1)
        weighted = weigh(weighted, sums, peaks, peak, n, d, is_query, in_head, begin, end, N, D, ROUND)
    result = weighted / tl.where(total == 0.0, 1.0, total)[:, None]
    target = out + ((row * Q + m // G) * H + head * G + m % G)[:, None] * D + d[None, :]
    tl.store(target, result.to(out.dtype.element_ty), mask=is_query[:, None] & in_head[None, :])


@dataclass(frozen=True, slots=True)
class Parts:
    """Room for the parts of rows × key heads and tiles × splits, the first ``own`` of them for a row's own cache.

    sums: [R, pairs, S, N, D]; peaks and totals: [R, pairs, S, N]; all float32.
    """

    sums: Tensor
    peaks: Tensor
    totals: Tensor
    own: int


def new_parts(rows: int, pairs: int, own: int, more: int, queries: int, D: int, device: torch.device) -> Parts:
    """Of ``own`` splits of rows' own caches and as many ``more`` of prefixes."""
    shape = rows, pairs, own + more, queries
    sums, peaks, totals = (
        torch.empty(size, dtype=torch.float32, device=device) for size in ((*shape, D), shape, shape)
    )
    return Parts(sums, peaks, totals, own)
