"""Cases and checks of attention with shared prefixes, for every path: torch on a CPU, the interpreter, a GPU."""

from dataclasses import dataclass, replace
from typing import Any

import torch
from attention_cases import ORDERS, TOLERANCE, same_bits
from torch import Tensor

from genarm_kernels import Sharing, new_sharing, reference, shared_attention


@dataclass
class Inputs:
    """What shared_attention takes, in its order."""

    query: Tensor
    keys: Tensor
    values: Tensor
    lengths: Tensor
    prefix_keys: Tensor
    prefix_values: Tensor
    sharing: Sharing

    @property
    def arguments(self) -> tuple[Any, ...]:
        return tuple(vars(self).values())

    def call(self, **options: object) -> Tensor:
        return shared_attention(*self.arguments, **options)

    def only(self, rows: list[int], prefixes: list[int] | None = None) -> "Inputs":
        """These rows in this order, on these prefixes in this order, by default all as they are."""
        prefixes = [*range(len(self.prefix_keys))] if prefixes is None else prefixes
        numbers = [prefixes.index(int(self.sharing.of_row[row])) for row in rows]
        sharing = make_sharing(numbers, self.sharing.lengths[rows].tolist(), self.sharing.extents[prefixes].tolist(),
                               str(self.query.device))  # fmt: skip
        own = (taken(x, rows) for x in (self.query, self.keys, self.values, self.lengths))
        return Inputs(*own, *(taken(x, prefixes) for x in (self.prefix_keys, self.prefix_values)), sharing)


def taken(tensor: Tensor, rows: list[int]) -> Tensor:
    """These rows of a tensor, in memory as it is."""
    out = torch.empty_strided((len(rows), *tensor.shape[1:]), tensor.stride(), dtype=tensor.dtype, device=tensor.device)
    return out.copy_(tensor[rows])


def make_sharing(of_row: list[int], lengths: list[int], extents: list[int], device: str = "cpu") -> Sharing:
    sharing = new_sharing(len(of_row), len(extents), device)
    share(sharing, of_row, lengths, extents)
    return sharing


def share(sharing: Sharing, of_row: list[int], lengths: list[int], extents: list[int]) -> None:
    """Rows begin with other prefixes, in the same buffers."""
    for buffer, now in ((sharing.of_row, of_row), (sharing.lengths, lengths), (sharing.extents, extents)):
        buffer.copy_(torch.tensor(now, dtype=torch.int32))
    sharing.regroup()


@dataclass(frozen=True)
class Case:
    Q: int
    H: int
    H_kv: int
    D: int
    T: int = 40  # places behind a prefix
    T_p: int = 150

    def make(
        self, of_row: list[int], shared: list[int], tails: list[int], extents: list[int] | None = None,
        dtype: torch.dtype = torch.float32, order: str = "heads first", device: str = "cpu", seed: int = 0,
    ) -> Inputs:  # fmt: skip
        """Row r has shared[r] positions of prefix of_row[r] and tails[r] behind them; prefixes hold `extents`, by
        default as many as their longest row has. What no row has is NaN."""
        generator = torch.Generator().manual_seed(seed)
        used = [0] * (max([-1, *of_row]) + 1 if extents is None else len(extents))
        for prefix, length in zip(of_row, shared, strict=True):
            used[prefix] = max(used[prefix], length)
        query = torch.randn(len(of_row), self.Q, self.H, self.D, generator=generator).to(device, dtype)
        caches = [
            filled(lived, (places, self.H_kv, self.D), generator, ORDERS[order]).to(device, dtype)
            for lived, places in ((tails, self.T), (tails, self.T), (used, self.T_p), (used, self.T_p))
        ]
        lengths = torch.tensor([own + n for own, n in zip(shared, tails, strict=True)], dtype=torch.int32)
        sharing = make_sharing(of_row, shared, used if extents is None else extents, device)
        return Inputs(query, *caches[:2], lengths.to(device), *caches[2:], sharing)


def filled(lived: list[int], shape: tuple[int, ...], generator: torch.Generator, place: tuple[int, ...]) -> Tensor:
    """Rows of a cache, random up to their length, then NaN; laid out in memory by the order of its dimensions."""
    cache = torch.randn(len(lived), *shape, generator=generator)
    for row, length in enumerate(lived):
        cache[row, max(length, 0) :] = torch.nan
    return cache.permute(place).contiguous().permute(sorted(range(4), key=place.__getitem__))


def assert_agrees(inputs: Inputs, **options: Any) -> Tensor:
    """shared_attention gives what the oracle gives, and 0 where a query sees nothing."""
    ours = inputs.call(**options)
    assert ours.dtype == inputs.query.dtype and ours.shape == inputs.query.shape and ours.is_contiguous()
    kept = {name: value for name, value in options.items() if name in ("scale", "window")}
    expected = reference.shared_attention(*inputs.arguments, **kept)
    tolerance = TOLERANCE[ours.dtype]
    torch.testing.assert_close(ours.double(), expected, rtol=tolerance, atol=tolerance)
    return ours


# Checks that mutants are held against as well.

# Two rows on a long prefix, three on a short one, two on none of their own, one prefix without rows.
OF_ROW, SHARED, TAILS = [0, 2, 0, 3, 2, 1, 2, 0], [140, 33, 140, 0, 33, 64, 33, 0], [5, 1, 40, 7, 9, 1, 38, 40]


def check_rows_of_several_prefixes(dtype: torch.dtype = torch.float32, device: str = "cpu", window: int = 0) -> None:
    assert_agrees(Case(1, 4, 2, 16).make(OF_ROW, SHARED, TAILS, dtype=dtype, device=device), window=window)
    assert_agrees(Case(3, 2, 2, 16).make(OF_ROW, SHARED, TAILS, dtype=dtype, device=device), window=window)


def check_queries(Q: int, H: int, H_kv: int, D: int, dtype: torch.dtype, order: str, device: str = "cpu") -> None:
    """Heads and tokens keep their places; queries of a row may come in two tiles, those of two rows in one."""
    shared, tails = [70, 70, 12, 70, 70], [9, 2, 8, 3, 20]
    assert_agrees(Case(Q, H, H_kv, D, 20, 70).make([0, 0, 1, 0, 0], shared, tails, None, dtype, order, device))


def check_one_prefix_for_all(device: str = "cpu") -> None:
    inputs = Case(1, 4, 1, 16, T_p=65).make([0] * 9, [65] * 9, [*range(1, 10)], device=device)
    assert_agrees(inputs)


def check_shorter_than_the_prefix(device: str = "cpu") -> None:
    """Rows that go back into their prefix see it up to there; what lies behind is NaN or of others."""
    shared = [150, 64, 1, 100, 63]
    assert_agrees(Case(2, 2, 1, 16).make([0] * 5, shared, [3, 4, 1, 0, 2], [150], device=device))
    assert_agrees(Case(2, 2, 1, 16).make([0] * 2, [70, 20], [2, 0], [150], device=device))


def check_lengths(device: str = "cpu") -> None:
    """No token at all, fewer than are asked for, the new ones in the prefix, all; more than there is room for."""
    for Q in (1, 3):
        inputs = Case(Q, 2, 1, 16).make([0, 0, 0, 1, 1, 0], [0, 1, 64, 0, 10, 64], [0, 1, 0, 2, 40, 40], device=device)
        inputs.lengths[5] = 2**31 - 1
        ours = inputs.call()
        inputs.lengths[5] = 104
        expected = reference.shared_attention(*inputs.arguments)
        torch.testing.assert_close(ours.double(), expected, rtol=1e-5, atol=1e-5)
        assert not ours[0].any() and (Q == 1 or not ours[1, 0].any())
        exact = inputs.call(window=50)
        inputs.lengths[5] = 2**31 - 1
        assert same_bits(inputs.call(window=50), exact)


def check_long_prefixes(device: str = "cpu") -> None:
    """More than 16 steps of 64, splits of several steps, peaks that grow and fall from one to the next."""
    for extents in ([1100, 2200], [1025, 2049]):
        inputs = Case(1, 1, 1, 16, 200, 2200).make(
            [0, 1, 1], [extents[0], *extents[1:] * 2], [9, 130, 2], device=device
        )
        inputs.prefix_keys.mul_(torch.linspace(-6, 6, 2200, device=device)[:, None, None])
        assert_agrees(inputs)


def check_windows(device: str = "cpu") -> None:
    """Within a tail, at its end, into the prefix, beyond it; rows of one prefix see it from other positions on."""
    for window in (1, 5, 40, 64, 110, 500):
        inputs = Case(4, 2, 1, 16).make([0, 0, 1, 0], [150, 150, 30, 70], [30, 4, 10, 0], [150, 30], device=device)
        assert_agrees(inputs, window=window)


def check_regrouped(device: str = "cpu") -> None:
    """The same buffers after rows went to other prefixes: as tensors made anew."""
    inputs = Case(1, 4, 2, 16).make(OF_ROW, SHARED, TAILS, device=device)
    inputs.call()
    for of_row in ([3, 3, 2, 2, 1, 1, 0, 0], [1] * 8, [2, 0, 3, 0, 1, 0, 0, 2]):
        share(inputs.sharing, of_row, [SHARED[OF_ROW.index(prefix)] for prefix in of_row], [140, 64, 33, 0])
        inputs.lengths.copy_(inputs.sharing.lengths + torch.tensor(TAILS, device=device))
        fresh = replace(inputs, sharing=make_sharing(*(b.tolist() for b in buffers(inputs.sharing)), device))
        assert same_bits(assert_agrees(inputs), fresh.call())


def buffers(sharing: Sharing) -> tuple[Tensor, Tensor, Tensor]:
    return sharing.of_row, sharing.lengths, sharing.extents


def check_a_row_does_not_depend_on_who_shares(device: str = "cpu", Q: int = 2) -> None:
    """A row alone, among rows of its prefix and of others, in another order, on a prefix of another number and in
    longer caches: the same bits."""
    inputs = Case(Q, 2, 1, 32).make(OF_ROW, SHARED, TAILS, device=device)
    for window in (0, 50):
        whole = inputs.call(window=window)
        for row in range(8):
            assert same_bits(inputs.only([row]).call(window=window), whole[row : row + 1])
            alone = inputs.only([row], [OF_ROW[row]])
            assert same_bits(alone.call(window=window), whole[row : row + 1])
        for rows in ([0, 2], [2, 0, 7], [6, 4, 1, 5], [7, 6, 5, 4, 3, 2, 1, 0], [4, 4, 4, 1, 1, 4, 4, 4, 6]):
            assert same_bits(inputs.only(rows, [2, 0, 3, 1]).call(window=window), whole[rows])
        names = ("keys", "values", "prefix_keys", "prefix_values")
        longer = {name: torch.cat([x := vars(inputs)[name], torch.full_like(x, torch.nan)], 1) for name in names}
        assert same_bits(replace(inputs, **longer).call(window=window), whole)


def check_windows_that_begin_side_by_side(device: str = "cpu") -> None:
    """Rows that see a prefix from neighbouring positions on, in splits of two steps: each has its bits alone."""
    inputs = Case(1, 1, 1, 16, 8, 1100).make([0] * 3, [1100] * 3, [1, 5, 8], device=device)
    whole = inputs.call(window=300)
    for row in range(3):
        assert same_bits(inputs.only([row]).call(window=300), whole[row : row + 1])


def check_large_scores(device: str = "cpu") -> None:
    """The largest in the prefix of one row and in the tail of another, far above all others."""
    inputs = Case(1, 2, 1, 16).make([0, 0, 1], [80, 80, 7], [3, 9, 1], device=device)
    for scale in (1.0, 0.0, -3.0):
        assert_agrees(inputs, scale=scale)
    assert_agrees(replace(inputs, query=inputs.query * 1e4))


def check_nan_shows_where_it_is_seen(device: str = "cpu") -> None:
    """In a query, in a key or a value of a prefix, in a tail: NaN in the rows and the heads that see it, no others."""
    inputs = Case(1, 4, 2, 16).make([0, 0, 1, 1], [70, 70, 20, 20], [3, 9, 1, 2], device=device)
    plain = inputs.call()
    for name, place, touched in (
        ("query", (3, 0, 1), {(3, 1)}),
        ("prefix_keys", (0, 69, 1), {(r, h) for r in (0, 1) for h in (2, 3)}),
        ("prefix_values", (1, 0, 0), {(r, h) for r in (2, 3) for h in (0, 1)}),
        ("keys", (1, 8, 0), {(1, 0), (1, 1)}),
        ("values", (2, 0, 1), {(2, 2), (2, 3)}),
    ):
        broken = vars(inputs)[name].clone(memory_format=torch.preserve_format)
        broken[place] = torch.nan
        ours = replace(inputs, **{name: broken}).call()[:, 0]
        wrong = torch.zeros(4, 4, dtype=torch.bool)
        wrong[tuple(zip(*touched, strict=True))] = True
        assert torch.equal(ours.isnan().all(-1).cpu(), wrong)
        assert same_bits(ours[~wrong.to(device)], plain[:, 0][~wrong.to(device)])


def check_nan_leaves_rows_alone_that_do_not_see_it(device: str = "cpu") -> None:
    """Before a row's window, or behind what it sees of the prefix, where other rows of one tile do: NaN in those, and
    the others have the bits that they have without."""
    inputs = Case(1, 2, 1, 16).make([0] * 5, [70, 150, 66, 150, 70], [3, 30, 0, 9, 5], [150], device=device)
    for window, place, touched in (
        (0, 68, {0, 1, 3, 4}), (0, 100, {1, 3}), (32, 149, {1, 3}), (32, 40, {2}), (100, 70, {3}),
    ):  # fmt: skip
        plain = inputs.call(window=window)
        for name in ("prefix_values", "prefix_keys"):
            broken = vars(inputs)[name].clone(memory_format=torch.preserve_format)
            broken[0, place] = torch.nan
            ours = replace(inputs, **{name: broken}).call(window=window)
            seen = torch.tensor([row in touched for row in range(5)], device=device)
            assert torch.equal(ours.isnan().all(3).all(2)[:, 0], seen)
            assert same_bits(ours[~seen], plain[~seen])


def check_several_tiles(device: str = "cpu") -> None:
    """More queries of one prefix than a tile has, with rows that two of them have parts of, beside a prefix of few; and
    rows of more queries than a tile has."""
    of_row = [0] * 4 + [1] + [0] * 9
    shared, tails = [66 if prefix == 0 else 20 for prefix in of_row], [1 + row % 3 for row in range(14)]
    inputs = Case(3, 2, 1, 16, 4, 66).make(of_row, shared, tails, device=device)
    whole = assert_agrees(inputs)
    assert same_bits(inputs.only([13, 4, 2]).call(), whole[[13, 4, 2]])
    assert_agrees(Case(8, 10, 1, 16, 4, 20).make([0, 0], [20, 20], [1, 3], dtype=torch.bfloat16, device=device))


def check_nan_of_later_tokens() -> None:
    """On a CPU: of a later token of its row; of a position before its window, which another row of its prefix sees."""
    inputs = Case(3, 2, 1, 16).make([0, 0], [70, 70], [3, 30])
    for name, place, touched in (
        ("values", (0, 2), [[0, 0, 1], [0, 0, 0]]),
        ("prefix_values", (0, 40), [[1, 1, 0], [0] * 3]),
    ):
        broken = vars(inputs)[name].clone(memory_format=torch.preserve_format)
        broken[place] = torch.nan
        ours = replace(inputs, **{name: broken}).call(window=32)
        assert ours.isnan().all((2, 3)).int().tolist() == ours.isnan().any(3).any(2).int().tolist() == touched
