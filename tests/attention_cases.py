"""Cases and checks of attention, for every path it takes: torch on a CPU, the interpreter, a GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from genarm_kernels import decode_attention, reference

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
