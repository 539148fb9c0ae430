"""Attention of the newest tokens over a static cache: split-KV flash decoding.

    out[r, q, h] = Σ_t p_t · v[r, t, h // G]
    p = softmax over visible t of scale · ⟨query[r, q, h], k[r, t, h // G]⟩

Query q of row r stands at position lengths[r] − Q + q and sees the positions up to its own, under a window the last
`window` of those. G = H / H_kv query heads share a key head, so their Q·G queries are one tile, padded to 16, and each
key and value is read once: 2 · lengths · H_kv · D elements per row. A row's live positions are cut into splits by its
own length alone, one program each; a second kernel adds up the splits in order, 4·(D + 2) bytes per query head and
split.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer import cpu
from genarm_kernels.layer.attention_arguments import check
from genarm_kernels.sampling.groups import INFINITY, LOG2_E, LOWEST

# A split takes one block of positions where a row has at most FINE blocks, two or more above, and a row has at most
# SPLITS of them: 8 key heads at 4k positions are 256 programs of 64 KB for 132 processors.
SPLITS = 64
FINE = 16
STAGES = 3
COMBINE_WARPS = 4
_SPLITS, _FINE = tl.constexpr(SPLITS), tl.constexpr(FINE)
# The interpreter's dot takes float32 only.
_UPCAST = tl.constexpr(INTERPRETED)


@triton.jit
def row_splits(lengths, row, positions, window, Q: tl.constexpr, WINDOWED: tl.constexpr, BLOCK: tl.constexpr):
    """A row's length, its first live position, the positions of a split and the number of splits."""
    length = tl.minimum(tl.maximum(tl.load(lengths + row), 0), positions)
    first = 0
    if WINDOWED:
        first = tl.maximum(length - Q + 1 - window, 0)
    blocks = tl.cdiv(length - first, BLOCK)
    each = tl.maximum(tl.cdiv(blocks, _SPLITS), tl.where(blocks > _FINE, 2, 1))
    return length, first, each * BLOCK, tl.cdiv(blocks, each)


@triton.jit
def product(left, right):
    """The matrix product in float32."""
    if _UPCAST:
        left, right = left.to(tl.float32), right.to(tl.float32)
    return tl.dot(left, right, input_precision="ieee")


@triton.jit(do_not_specialize=["positions", "window"])
def split_kernel(
    query, keys, values, lengths, sums, peaks, totals,
    query_row, query_token, query_head, key_row, key_token, key_head, value_row, value_token, value_head,
    positions, window, scale,
    Q: tl.constexpr, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, WINDOWED: tl.constexpr,
    M: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr, D_BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (row, key head and tile, split): peak, Σ 2^(score − peak) and the values' sum of up to M queries."""
    row, split = tl.program_id(0).to(tl.int64), tl.program_id(2)
    head = (tl.program_id(1) // TILES).to(tl.int64)
    length, first, size, count = row_splits(lengths, row, positions, window, Q, WINDOWED, BLOCK)
    if split >= count:
        return
    m = tl.program_id(1) % TILES * M + tl.arange(0, M)
    d, t = tl.arange(0, D_BLOCK), tl.arange(0, BLOCK)
    token, own = m // G, head * G + m % G
    is_query, in_head = m < Q * G, d < D
    asked = tl.load(
        query + row * query_row + token[:, None] * query_token + own[:, None] * query_head + d[None, :],
        mask=is_query[:, None] & in_head[None, :],
        other=0.0,
    )
    begin = first + split * size
    end = tl.minimum(begin + size, length)
    key = keys + row * key_row + head * key_head + t.to(tl.int64)[:, None] * key_token + d[None, :]
    value = values + row * value_row + head * value_head + t.to(tl.int64)[:, None] * value_token + d[None, :]
    place = length - Q + token
    peak = tl.full([M], LOWEST, tl.float32)
    # Added up across positions only behind the loop: warps have positions of their own, and would wait for each other.
    total = tl.zeros([M, BLOCK], tl.float32)
    weighted = tl.zeros([M, D_BLOCK], tl.float32)
    for start in tl.range(begin, end, BLOCK, num_stages=STAGES):
        # What lies behind a row's length may be anything, NaN too, so it is not read.
        live = (start + t < end)[:, None] & in_head[None, :]
        k = tl.load(key + tl.cast(start, tl.int64) * key_token, mask=live, other=0.0)
        v = tl.load(value + tl.cast(start, tl.int64) * value_token, mask=live, other=0.0)
        at = (start + t)[None, :]
        seen = (at <= place[:, None]) & (at < end)
        if WINDOWED:
            seen = seen & (at > place[:, None] - window)
        scores = tl.where(seen, product(asked, tl.trans(k)) * (scale * LOG2_E), -INFINITY)
        top = tl.maximum(peak, tl.max(scores, 1))
        shares = tl.exp2(scores - top[:, None])
        kept = tl.exp2(peak - top)
        total = total * kept[:, None] + shares
        weighted = weighted * kept[:, None] + product(shares.to(v.dtype), v)
        peak = top
    S = tl.num_programs(2)
    out = ((row * Q + token) * H + own) * S + split
    tl.store(peaks + out, peak, mask=is_query)
    tl.store(totals + out, tl.sum(total, 1), mask=is_query)
    tl.store(sums + out[:, None] * D + d[None, :], weighted, mask=is_query[:, None] & in_head[None, :])


@triton.jit(do_not_specialize=["positions", "window", "S"])
def combine_kernel(
    lengths, sums, peaks, totals, out, positions, window, S,
    Q: tl.constexpr, H: tl.constexpr, D: tl.constexpr, WINDOWED: tl.constexpr,
    BLOCK: tl.constexpr, D_BLOCK: tl.constexpr,
):  # fmt: skip
    """Program (row, token and head): the splits of one query, in one order whatever the lengths of row and cache."""
    row, place = tl.program_id(0).to(tl.int64), tl.program_id(1)
    _, _, _, count = row_splits(lengths, row, positions, window, Q, WINDOWED, BLOCK)
    s, d = tl.arange(0, _SPLITS), tl.arange(0, D_BLOCK)
    at = (row * Q * H + place) * S + s
    peak = tl.load(peaks + at, mask=s < count, other=LOWEST)
    share = tl.exp2(peak - tl.max(peak, 0))
    total = tl.sum(tl.load(totals + at, mask=s < count, other=0.0) * share, 0)
    live = (s < count)[:, None] & (d < D)[None, :]
    weighted = tl.load(sums + at[:, None] * D + d[None, :], mask=live, other=0.0)
    result = tl.sum(weighted * share[:, None], 0) / tl.where(total == 0.0, 1.0, total)
    tl.store(out + (row * Q * H + place) * D + d, result.to(out.dtype.element_ty), mask=d < D)


@dataclass(frozen=True, slots=True)
class Layout:
    """How a shape is laid out on programs, the same for every batch and length."""

    block: int  # positions per step
    queries: int  # of a tile
    tiles: int
    warps: int


def layout(dtype: torch.dtype, D: int, queries: int) -> Layout:
    """For so many queries per key head: a step loads 16 KB of keys and 16 KB of values, and 72 KB are held in all.

    Wide heads take eight warps, and float32, which has no tensor cores here, small tiles: both keep to registers.
    """
    width = dtype.itemsize * max(16, triton.next_power_of_2(D))
    most = 16 if dtype == torch.float32 else 64
    tile = min(most, max(16, triton.next_power_of_2(queries)))
    return Layout(max(16, min(64, 16384 // width)), tile, -(-queries // tile), 8 if width >= 512 else 4)


def most_splits(positions: int, block: int) -> int:
    """The most splits that a row of up to so many live positions has."""
    blocks = -(-positions // block)
    return max(1, min(blocks, FINE), min(-(-blocks // 2), SPLITS))


def decode_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    scale: float | None = None,
    window: int = 0,
    *,
    longest: int | None = None,
    even: bool = False,
) -> Tensor:
    """Attention of each row's last Q tokens over its cached positions, causal among the Q.

    Split-KV flash decoding after Dao et al., "Flash-Decoding for long-context inference" (2023). A row's result does
    not depend on the other rows, on a GPU not in its last bit. No gradient.

    Args:
        query: [R, Q, H, D], Q ≤ 8, D ≤ 256; bfloat16, float16 or float32, last dimension contiguous.
        key_cache: [R, T, H_kv, D] of query's dtype, H a multiple of H_kv; any strides but the last, which is 1.
        value_cache: the same.
        lengths: [R] int32, the cached tokens of each row, its Q included. Query q sees positions
            < lengths − Q + q + 1. A length above T is read as T.
        scale: of the scores, D^−0.5 by default.
        window: 0, or how many positions up to its own a query sees.
        longest: a bound on lengths that the host knows, 1 to T: on a CPU nothing beyond it is touched.
        even: whether the host promises every length to be `longest`. These two are for the CPU: a GPU reads lengths
            and no further.

    Returns:
        [R, Q, H, D] in query's dtype, 0 for a query that sees nothing.

    Raises:
        TypeError: for tensors of dtypes that do not fit.
        ValueError: for shapes, strides or devices that do not fit, or a negative window.
    """
    longest = check(query, key_cache, value_cache, lengths, window, longest, even)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    if query.numel() == 0 or key_cache.shape[1] == 0:
        return torch.zeros_like(query, memory_format=torch.contiguous_format)
    if query.is_cuda or INTERPRETED:
        with on_device(query.device):
            return _launch(query, key_cache, value_cache, lengths, scale, window)
    return cpu.attention(query, key_cache, value_cache, lengths, scale, window, longest, even)


def _launch(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float, window: int) -> Tensor:
    R, Q, H, D = query.shape
    T, H_kv = keys.shape[1:3]
    G = H // H_kv
    plan = layout(query.dtype, D, Q * G)
    S = most_splits(min(T, window + Q - 1) if window else T, plan.block)
    sums, peaks, totals = (
        torch.empty(shape, dtype=torch.float32, device=query.device)
        for shape in ((R, Q, H, S, D), (R, Q, H, S), (R, Q, H, S))
    )
    out = torch.empty((R, Q, H, D), dtype=query.dtype, device=query.device)
    shared: dict[str, Any] = {"Q": Q, "H": H, "D": D, "WINDOWED": window > 0, "BLOCK": plan.block}
    D_BLOCK = triton.next_power_of_2(D)
    launch: Any = split_kernel[(R, H_kv * plan.tiles, S)]
    launch(
        query, keys, values, lengths, sums, peaks, totals,
        *query.stride()[:3], *keys.stride()[:3], *values.stride()[:3],
        T, window, scale,
        G=G, M=plan.queries, TILES=plan.tiles, D_BLOCK=max(16, D_BLOCK), STAGES=STAGES,
        **shared, num_warps=plan.warps,
    )  # fmt: skip
    launch = combine_kernel[(R, Q * H)]
    launch(
        lengths, sums, peaks, totals, out, T, window, S,
        D_BLOCK=D_BLOCK, **shared, num_warps=COMBINE_WARPS,
    )  # fmt: skip
    return out
