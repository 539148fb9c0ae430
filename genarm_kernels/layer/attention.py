"""Attention of the newest tokens over a static cache: split-KV flash decoding in one launch.

    out[r, q, h] = Σ_t p_t · v[r, t, h // G]
    p = softmax over visible t of scale · ⟨query[r, q, h], k[r, t, h // G]⟩

Query q of row r stands at position lengths[r] − Q + q and sees the positions up to its own, under a window the last
`window` of those. G = H / H_kv query heads share a key head, so their Q·G queries are one tile, padded to 16, and each
key and value is read once: 2 · lengths · H_kv · D elements per row. A row's live positions are cut into splits by its
own length alone, and its splits are shared out among as many programs as fill the card. The last of them to arrive
adds up the splits in order, 4·(D + 2) bytes per query head and split.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels import card
from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer import cpu
from genarm_kernels.layer.attention_arguments import check, new_arrivals
from genarm_kernels.layer.attention_layout import layout, most_splits, programs, stages
from genarm_kernels.layer.parts import attend, combine, new_parts, prefix_seen, row_splits
from genarm_kernels.layer.prefixes import Prefixes
from genarm_kernels.sampling.groups import LOWEST


@triton.jit(
    do_not_specialize=["positions", "window", "S", "held", "own_splits"],
    do_not_specialize_on_alignment=["lengths", "arrivals", "of_row", "shared", "extents"],
)
def attention_kernel(
    query, keys, values, lengths, arrivals, of_row, shared, extents, sums, peaks, totals, out,
    query_row, query_token, query_head, key_row, key_token, key_head, value_row, value_token, value_head,
    positions, window, scale, S, held, own_splits,
    Q: tl.constexpr, H: tl.constexpr, G: tl.constexpr, D: tl.constexpr, WINDOWED: tl.constexpr,
    M: tl.constexpr, N: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr, D_BLOCK: tl.constexpr,
    STAGES: tl.constexpr, QUERIES: tl.constexpr, ROUND: tl.constexpr, BEGUN: tl.constexpr,
):  # fmt: skip
    """Program (row, key head and tile, p of P): of splits p, p + P, … peak, Σ 2^(score − peak) and the values' sum of
    N queries; the last of the P to arrive combines all splits."""
    row, program, P = tl.program_id(0).to(tl.int64), tl.program_id(2), tl.num_programs(2)
    tile, head = tl.program_id(1) % TILES, (tl.program_id(1) // TILES).to(tl.int64)
    begun, begin_shared, end_shared = 0, 0, 0
    if BEGUN:
        extent, _, size, _ = row_splits(extents, tl.load(of_row + row), 0, held, 0, 1, False, BLOCK)
        begun, _, low, high = prefix_seen(lengths, shared, row, extent, positions, window, Q, WINDOWED)
        begin_shared, end_shared = own_splits + low // size, own_splits + tl.where(low < high, tl.cdiv(high, size), 0)
    length, first, size, count = row_splits(lengths, row, begun, positions, window, Q, WINDOWED, BLOCK)
    if program >= count:
        return
    n, d, t = tl.arange(0, M), tl.arange(0, D_BLOCK), tl.arange(0, BLOCK)
    m = tile * M + n
    token, own = m // G, head * G + m % G
    is_query, in_head = m < Q * G, d < D
    wanted = is_query[:, None] & in_head[None, :]
    key = keys + row * key_row + head * key_head + t.to(tl.int64)[:, None] * key_token + d[None, :]
    value = values + row * value_row + head * value_head + t.to(tl.int64)[:, None] * value_token + d[None, :]
    place = length - Q + token
    pair = row * tl.num_programs(1) + tl.program_id(1)
    sums, peaks, totals = sums + pair * S * N * D, peaks + pair * S * N, totals + pair * S * N
    asking = query + row * query_row + token[:, None] * query_token + own[:, None] * query_head + d[None, :]
    asked = tl.load(asking, mask=wanted, other=0.0)
    for split in range(program, count, P):
        begin = first + split * size
        end = tl.minimum(begin + size, length)
        peak = tl.full([M], LOWEST, tl.float32)
        # Added up across positions only behind the loop: warps have positions of their own, and would wait for others.
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
            peak, total, weighted = attend(asked, k, v, seen, scale, peak, total, weighted)
        part = split * N
        tl.store(peaks + part + n, peak, mask=is_query)
        tl.store(totals + part + n, tl.sum(total, 1), mask=is_query)
        tl.store(sums + part * D + (n[:, None] * D + d[None, :]), weighted, mask=wanted)
    # Every thread has stored before one of them counts the program in, for all processors to see.
    tl.debug_barrier()
    if tl.atomic_add(arrivals + pair, 1, sem="acq_rel", scope="gpu") == tl.minimum(count, P) - 1:
        tl.store(arrivals + pair, 0)
        for some in range(0, N, QUERIES):
            combine(
                sums, peaks, totals, out, row, head, tile, some, count, begin_shared, end_shared,
                Q, H, G, D, M, N, QUERIES, D_BLOCK, ROUND, BEGUN,
            )  # fmt: skip


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
    arrivals: Tensor | None = None,
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
        arrivals: `new_arrivals` of as many rows and heads at least, which calls may share that run one after the
            other. None makes one of its own, which costs a GPU a second launch.

    Returns:
        [R, Q, H, D] in query's dtype, 0 for a query that sees nothing.

    Raises:
        TypeError: for tensors of dtypes that do not fit.
        ValueError: for shapes, strides or devices that do not fit, a negative window, or too few arrivals.
    """
    longest = check(query, key_cache, value_cache, lengths, window, longest, even, arrivals)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    if query.numel() == 0 or key_cache.shape[1] == 0:
        return torch.zeros_like(query, memory_format=torch.contiguous_format)
    if query.is_cuda or INTERPRETED:
        with on_device(query.device):
            return launch(query, key_cache, value_cache, lengths, scale, window, arrivals)
    return cpu.attention(query, key_cache, value_cache, lengths, scale, window, longest, even)


def launch(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    scale: float,
    window: int,
    arrivals: Tensor | None = None,
    prefixes: Prefixes | None = None,
) -> Tensor:
    """decode_attention of checked arguments, with what rows begin with, if anything."""
    R, Q, H, D = query.shape
    T, H_kv = keys.shape[1:3]
    G = H // H_kv
    plan, own = layout(query.dtype, D, Q * G), card.card_of(query.device)
    S = most_splits(min(T, window + Q - 1) if window else T, plan.block)
    if arrivals is None:
        arrivals = new_arrivals(R, H, H_kv, query.device)
    pairs, N = H_kv * plan.tiles, min(plan.queries, Q * G)
    more = 0 if prefixes is None else most_splits(prefixes.positions, plan.block)
    parts = new_parts(R, pairs, S, more, N, D, query.device)
    begun: tuple[Tensor | None, ...] = (None, None, None)
    if prefixes is not None:
        sharing = prefixes.sharing
        begun = sharing.of_row, sharing.lengths, sharing.extents
        prefixes.read(query, lengths, T, scale, window, plan, parts)
    out = torch.empty((R, Q, H, D), dtype=query.dtype, device=query.device)
    launch: Any = attention_kernel[(R, pairs, programs(plan, own, R * pairs, S))]
    launch(
        query, keys, values, lengths, arrivals, *begun, parts.sums, parts.peaks, parts.totals, out,
        *query.stride()[:3], *keys.stride()[:3], *values.stride()[:3],
        T, window, scale, S + more, 0 if prefixes is None else prefixes.positions, S,
        Q=Q, H=H, G=G, D=D, WINDOWED=window > 0,
        M=plan.queries, N=N, TILES=plan.tiles, BLOCK=plan.block, D_BLOCK=plan.width, STAGES=stages(plan, own),
        QUERIES=plan.asked, ROUND=plan.round, BEGUN=prefixes is not None, num_warps=plan.warps, maxnreg=plan.registers,
    )  # fmt: skip
    return out
