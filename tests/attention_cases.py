"""Cases and checks of attention, for every path it takes: torch on a CPU, the interpreter, a GPU."""

import itertools
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import pytest
import torch
from torch import Tensor

from genarm_kernels import decode_attention, reference
from genarm_kernels.layer import attention
from genarm_kernels.layer.attention_arguments import new_arrivals
from genarm_kernels.layer.attention_layout import FINE, SPLITS, layout
from genarm_kernels.sampling.groups import LOG2_E, LOWEST

# Of a result against the oracle on the same rounded inputs: weights and result are rounded once each.
TOLERANCE = {torch.float32: 1e-5, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# The order in memory of a cache's rows, positions and heads.
ORDERS = {"heads first": (0, 2, 1, 3), "positions first": (0, 1, 2, 3), "rows last": (1, 2, 0, 3)}


@dataclass(frozen=True)
class Case:
    R: int
    Q: int
    H: int
    H_kv: int
    D: int
    T: int

    def make(
        self, lengths: list[int], dtype: torch.dtype, order: str = "heads first", device: str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, caches and lengths; whatever lies behind a row's length is NaN."""
        generator = torch.Generator().manual_seed(seed)
        query = torch.randn(self.R, self.Q, self.H, self.D, generator=generator)
        place = ORDERS[order]
        back = sorted(range(4), key=place.__getitem__)
        shape = (self.R, self.T, self.H_kv, self.D)
        caches = []
        for _ in range(2):
            cache = torch.randn(shape, generator=generator)
            for row, length in enumerate(lengths):
                cache[row, max(length, 0) :] = torch.nan
            caches.append(cache.to(device, dtype).permute(place).contiguous().permute(back))
        return query.to(device, dtype), *caches, torch.tensor(lengths, dtype=torch.int32, device=device)


def assert_agrees(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, **options: object) -> Tensor:
    """decode_attention gives what the oracle gives, and 0 where a query sees nothing."""
    ours = decode_attention(query, keys, values, lengths, **options)
    assert ours.dtype == query.dtype and ours.shape == query.shape and ours.is_contiguous()
    options = {name: value for name, value in options.items() if name in ("scale", "window")}
    expected = reference.decode_attention(query, keys, values, lengths, **options)
    torch.testing.assert_close(ours.double(), expected, rtol=TOLERANCE[query.dtype], atol=TOLERANCE[query.dtype])
    return ours


def in_order(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, window: int = 0) -> Tensor:
    """decode_attention in float32 by the order of its sums: each split's, then for every query over 64 splits, those
    that a row has not being zeros. A launch per split and one per query give these bits, and so does one for both."""
    R, Q, H, D = query.shape
    plan, G = layout(torch.float32, D, Q * H // keys.shape[2]), H // keys.shape[2]
    out = np.zeros((R, Q, H, D), np.float32)
    for row, head, tile in itertools.product(range(R), range(keys.shape[2]), range(plan.tiles)):
        m = tile * plan.queries + np.arange(plan.queries)
        real = m < Q * G
        token, own = m[real] // G, head * G + m[real] % G
        asked = np.zeros((plan.queries, plan.width), np.float32)
        asked[real, :D] = query[row].numpy()[token, own]
        peaks, totals = (
            np.full((plan.queries, SPLITS), LOWEST.value, np.float32),
            np.zeros((plan.queries, SPLITS), np.float32),
        )
        sums = np.zeros((plan.queries, SPLITS, plan.width), np.float32)
        cached = [x[row, :, head].numpy() for x in (keys, values)]
        parts = splits(asked, m // G, *cached, min(int(lengths[row]), keys.shape[1]), Q, window, plan.block)
        for split, part in enumerate(parts):
            peaks[:, split], totals[:, split], sums[:, split] = part
        for n, (q, h) in enumerate(zip(token, own, strict=True)):
            share = np.exp2(peaks[n] - peaks[n].max())
            total = (totals[n] * share).sum()
            out[row, q, h] = ((sums[n] * share[:, None]).sum(0) / (total or np.float32(1)))[:D]
    return torch.from_numpy(out)


def splits(
    asked: np.ndarray, token: np.ndarray, keys: np.ndarray, values: np.ndarray, length: int, Q: int, window: int, B: int
) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
    """Peak, sum of 2^(score − peak) and the values' sum of each split of a row, B positions per step."""
    first = max(length - Q + 1 - window, 0) if window else 0
    steps = -(-(length - first) // B)
    each = max(-(-steps // SPLITS), 2 if steps > FINE else 1) * B
    M, width = asked.shape
    place = length - Q + token[:, None]
    for begin in range(first, length, each):
        peak, total, weighted = np.full(M, LOWEST.value, np.float32), np.zeros((M, B), np.float32), np.zeros_like(asked)
        for start in range(begin, min(begin + each, length), B):
            k, v, end = np.zeros((B, width), np.float32), np.zeros((B, width), np.float32), min(begin + each, length)
            live = min(B, end - start)
            k[:live, : keys.shape[1]], v[:live, : keys.shape[1]] = keys[start:][:live], values[start:][:live]
            at = start + np.arange(B)[None]
            seen = (at <= place) & (at < end) & (at > place - (window or length + Q + 1))
            scale = np.float32(keys.shape[1] ** -0.5) * np.float32(LOG2_E.value)
            scores = np.where(seen, np.matmul(asked, k.T) * scale, np.float32(-np.inf))
            top = np.maximum(peak, scores.max(1))
            shares, kept = np.exp2(scores - top[:, None]), np.exp2(peak - top)
            total, weighted = total * kept[:, None] + shares, weighted * kept[:, None] + np.matmul(shares, v)
            peak = top
        yield peak, total.sum(1), weighted


# Checks that mutants are held against as well.


def check_lengths(dtype: torch.dtype = torch.float32, device: str = "cpu", window: int = 0) -> None:
    """No token, fewer than are asked for, one, just below and above a step of 64, all; NaN behind each."""
    for Q in (1, 3):
        case = Case(7, Q, 2, 1, 16, 140)
        ours = assert_agrees(*case.make([0, 2, 140, 63, 64, 65, 1], dtype, device=device), window=window)
        assert not ours[0].any() and (Q == 1 or not ours[1, 0].any())


def check_many_splits(device: str = "cpu") -> None:
    """A row of more than FINE steps, whose splits have two each and the last one fewer."""
    case = Case(2, 1, 1, 1, 16, 1200)
    for lengths in ([1200, 1024], [1089, 1025]):
        # Peaks that grow and fall from split to split.
        query, keys, values, lived = case.make(lengths, torch.float32, device=device)
        keys *= torch.linspace(-6, 6, case.T, device=device)[:, None, None]
        assert_agrees(query, keys, values, lived)


def check_order() -> None:
    """Any number of programs per row, one after the other on the same counters: the bits of sums in order."""
    cases = [
        (Case(3, 3, 2, 1, 16, 330), [300, 0, 70], 0),
        (Case(1, 3, 7, 1, 16, 140), [140], 70),  # several tiles, the last one with fewer queries
        (Case(1, 8, 1, 1, 256, 190), [180], 0),  # more splits than are loaded at once
    ]
    arrivals = new_arrivals(3, 7, 1, "cpu")
    for case, lengths, window in cases:
        inputs = case.make(lengths, torch.float32)
        expected = in_order(*inputs, window=window)
        for most in (1, 2, 3, SPLITS) if window == 0 and case.D == 16 else (3,):
            with pytest.MonkeyPatch.context() as patch:
                patch.setattr(attention, "programs", lambda plan, card, tiles, splits, most=most: min(most, splits))
                assert same_bits(decode_attention(*inputs, window=window, arrivals=arrivals), expected)
            assert not arrivals.any()
    # Two programs for each of two tiles, counted from where none is the last.
    case, lengths, window = cases[1]
    decode_attention(*case.make(lengths, torch.float32), window=window, arrivals=arrivals.fill_(-1000))
    assert arrivals.tolist() == [-998] * 2 + [-1000] * (len(arrivals) - 2)


def check_tiles() -> None:
    """More queries per key head than a tile has, in tiles of more than are combined at once."""
    plan = layout(torch.bfloat16, 16, 8 * 12)
    assert plan.tiles > 1 and plan.queries > plan.asked
    assert_agrees(*Case(1, 8, 12, 1, 16, 30).make([29], torch.bfloat16))


def check_heads_and_tokens_keep_their_places(device: str = "cpu") -> None:
    for Q, H, H_kv in ((1, 1, 1), (1, 6, 2), (3, 7, 1), (8, 8, 2), (5, 3, 3)):
        assert_agrees(*Case(1, Q, H, H_kv, 16, 40).make([36], torch.float32, device=device))


def check_windows(device: str = "cpu") -> None:
    for window in (1, 5, 64, 90, 500):
        assert_agrees(*Case(2, 4, 2, 1, 16, 150).make([150, 3], torch.float32, device=device), window=window)


def same_bits(left: Tensor, right: Tensor) -> bool:
    kind = torch.int32 if left.dtype == torch.float32 else torch.int16
    return torch.equal(left.contiguous().view(kind), right.contiguous().view(kind))


def check_a_row_does_not_depend_on_its_batch(dtype: torch.dtype, device: str = "cpu") -> None:
    """A row alone, among others at every place, in a longer cache and in another layout: the same bits."""
    case = Case(3, 2, 2, 1, 32, 140)
    query, keys, values, lengths = case.make([140, 0, 64], dtype, device=device)
    whole = decode_attention(query, keys, values, lengths)
    for row in range(case.R):
        at = slice(row, row + 1)
        assert same_bits(decode_attention(query[at], keys[at], values[at], lengths[at]), whole[at])
    order = torch.arange(case.R, device=device).roll(1)
    assert same_bits(decode_attention(query[order], keys[order], values[order], lengths[order]), whole[order])
    longer = [torch.cat([cached, torch.full_like(cached, torch.nan)], 1) for cached in (keys, values)]
    assert same_bits(decode_attention(query, *longer, lengths), whole)
    assert same_bits(decode_attention(query, keys.contiguous(), values.contiguous(), lengths), whole)
