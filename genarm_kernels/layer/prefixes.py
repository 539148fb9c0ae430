"""Attention of the newest tokens to prefixes that rows have in common: parts of it, which decode_attention adds up.

    peak = max_t s_t,  total = Σ_t 2^(s_t − peak),  sum = Σ_t 2^(s_t − peak) · v_t    over a split's positions t

The queries of all rows of a prefix lie side by side, as `order` has the rows, 64 to a tile (32 of heads wider than
128, 16 in float32); a tile reads a split's keys and values once: 2 · extent · H_kv · D elements for up to 64 / (Q · G)
rows, and further tiles find them in L2. A prefix is cut into splits by its own extent, and a split into steps by
position, so that a row's sums have one order whoever has the prefix with it. Each row's parts are written, 4 · (D + 2)
bytes per query head and split.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels import card
from genarm_kernels.layer.attention_layout import Layout, layout, most_splits, programs, stages
from genarm_kernels.layer.parts import Parts, attend, prefix_seen, row_splits
from genarm_kernels.layer.sharing import Sharing
from genarm_kernels.sampling.groups import LOWEST


def wide_layout(dtype: torch.dtype, D: int) -> Layout:
    """Tiles for the queries of however many rows, by the heads alone: 32 of wide heads, in float32 always 16."""
    return layout(dtype, D, 64 if D <= 128 else 32)


@triton.jit(
    do_not_specialize=["held", "positions", "window", "S", "own_splits"],
    do_not_specialize_on_alignment=["lengths", "order", "bounds", "shared", "extents"],
)
def prefixes_kernel(
    query, keys, values, lengths, order, bounds, shared, extents, sums, peaks, totals,
    query_row, query_token, query_head, key_prefix, key_token, key_head, value_prefix, value_token, value_head,
    held, positions, window, scale, S, own_splits,
    Q: tl.constexpr, G: tl.constexpr, D: tl.constexpr, WINDOWED: tl.constexpr,
    M: tl.constexpr, ROW_M: tl.constexpr, N: tl.constexpr, TILES: tl.constexpr, BLOCK: tl.constexpr,
    D_BLOCK: tl.constexpr, STAGES: tl.constexpr,
):  # fmt: skip
    """Program (prefix, key head, p of P): of items p, p + P, …, a split and a tile of queries each, the parts of those
    queries, where decode_attention has tiles of ROW_M queries of one row and TILES of them."""
    prefix, head = tl.program_id(0).to(tl.int64), tl.program_id(1).to(tl.int64)
    begin_rows = tl.load(bounds + prefix)
    queries = (tl.load(bounds + prefix + 1) - begin_rows) * (Q * G)
    extent, _, size, count = row_splits(extents, prefix, 0, held, 0, 1, False, BLOCK)
    n, d, t = tl.arange(0, M), tl.arange(0, D_BLOCK), tl.arange(0, BLOCK)
    in_head = d < D
    key = keys + prefix * key_prefix + head * key_head + t.to(tl.int64)[:, None] * key_token + d[None, :]
    value = values + prefix * value_prefix + head * value_head + t.to(tl.int64)[:, None] * value_token + d[None, :]
    tiles = tl.cdiv(queries, M)
    item, turn = tl.program_id(2), 0
    while item < tiles * count:
        # Programs that run side by side have the tiles of one split, which one of them brings into L2.
        split, tile = item // tiles, item % tiles
        begin, at = split * size, tile * M + n
        sharer, m = at // (Q * G), at % (Q * G)
        row = tl.load(order + begin_rows + sharer, mask=at < queries, other=0).to(tl.int64)
        _begun, length, low, high = prefix_seen(lengths, shared, row, extent, positions, window, Q, WINDOWED)
        low, high = tl.maximum(low, begin), tl.minimum(high, begin + size)
        # All rows take one turn; where one has NaN then and others see more than it does, each has one by itself.
        alone = tile * M // (Q * G) + turn - 1
        mine = (at < queries) & (low < high) & ((turn == 0) | (sharer == alone))
        first, last = tl.min(tl.where(mine, low, begin + size)), tl.max(tl.where(mine, high, begin))
        uneven = (tl.max(tl.where(mine, low, first)) > first) | (tl.min(tl.where(mine, high, last)) < last)
        token, own = m // G, head * G + m % G
        place = length - Q + token
        until = tl.minimum(place, high - 1)
        asking = query + (row * query_row + token * query_token + own * query_head)[:, None] + d[None, :]
        asked = tl.load(asking, mask=mine[:, None] & in_head[None, :], other=0.0)
        peak = tl.full([M], LOWEST, tl.float32)
        total = tl.zeros([M, BLOCK], tl.float32)
        weighted = tl.zeros([M, D_BLOCK], tl.float32)
        for start in tl.range(begin + (first - begin) // BLOCK * BLOCK, last, BLOCK, num_stages=STAGES):
            # What none of these rows sees may be anything, NaN too, so it is not read.
            there = start + t
            live = ((there >= first) & (there < last))[:, None] & in_head[None, :]
            k = tl.load(key + tl.cast(start, tl.int64) * key_token, mask=live, other=0.0)
            v = tl.load(value + tl.cast(start, tl.int64) * value_token, mask=live, other=0.0)
            seen = there[None, :] <= until[:, None]
            if WINDOWED:
                seen = seen & (there[None, :] > place[:, None] - window)
            peak, total, weighted = attend(asked, k, v, seen, scale, peak, total, weighted)
        # Read once more, so that no register holds it through the loop.
        row = tl.load(order + begin_rows + sharer, mask=at < queries, other=0, cache_modifier=".cg").to(tl.int64)
        part = (((row * tl.num_programs(1) + head) * TILES + m // ROW_M) * S + own_splits + split) * N + m % ROW_M
        # Rows that see nothing here have parts that are not added up.
        taken = (at < queries) & (first < last) & ((turn == 0) | (sharer == alone))
        tl.store(peaks + part, peak, mask=taken)
        tl.store(totals + part, tl.sum(total, 1), mask=taken)
        tl.store(sums + part[:, None] * D + d[None, :], weighted, mask=taken[:, None] & in_head[None, :])
        nan = tl.max((weighted != weighted).to(tl.int32)) > 0
        turns = (tl.minimum(tile * M + M, queries) - 1) // (Q * G) - tile * M // (Q * G) + 1
        turn = tl.where(((turn == 0) & uneven & nan) | ((turn > 0) & (turn < turns)), turn + 1, 0)
        item += tl.where(turn == 0, tl.num_programs(2), 0)


@dataclass(frozen=True, slots=True)
class Prefixes:
    """What rows begin with. keys and values: [P, T_p, H_kv, D]."""

    keys: Tensor
    values: Tensor
    sharing: Sharing

    @property
    def positions(self) -> int:
        """The most that a prefix holds."""
        return self.keys.shape[1]

    def read(
        self, query: Tensor, lengths: Tensor, T: int, scale: float, window: int, rows: Layout, parts: Parts
    ) -> None:
        """Write the ``parts`` that are of prefixes, for rows of T places of their own, laid out as ``rows``."""
        (R, Q, H, D), (P, T_p, H_kv) = query.shape, self.keys.shape[:3]
        G, sharing = H // H_kv, self.sharing
        plan, own = wide_layout(query.dtype, D), card.card_of(query.device)
        items = -(-R * Q * G // plan.queries) * most_splits(T_p, plan.block)
        launch: Any = prefixes_kernel[(P, H_kv, programs(plan, own, P * H_kv, items))]
        launch(
            query, self.keys, self.values, lengths, sharing.order, sharing.first, sharing.lengths, sharing.extents,
            parts.sums, parts.peaks, parts.totals,
            *query.stride()[:3], *self.keys.stride()[:3], *self.values.stride()[:3],
            T_p, T, window, scale, parts.sums.shape[2], parts.own,
            Q=Q, G=G, D=D, WINDOWED=window > 0,
            M=plan.queries, ROW_M=rows.queries, N=parts.sums.shape[3], TILES=rows.tiles, BLOCK=plan.block,
            D_BLOCK=plan.width, STAGES=stages(plan, own), num_warps=plan.warps, maxnreg=plan.registers,
        )  # fmt: skip
