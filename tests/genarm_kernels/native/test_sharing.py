"""Rows that begin with one prefix, which a step in C reads once: the bits of rows that hold all of it themselves."""

from __future__ import annotations

from dataclasses import dataclass, replace

import pytest
import torch
from emulated_kernels import emulate
from mutations import assert_killed
from native_cases import TOLERANCE, Shape, Step, before_tokens, edited_source, true_tokens
from torch import Tensor

from genarm_kernels.layer.sharing import new_sharing

DTYPES = (torch.float32, torch.bfloat16)
pytestmark = pytest.mark.usefixtures("native_path")


@dataclass(frozen=True)
class Shared:
    """The prefix that each row begins with, and how many of its positions.

    The shape's lengths count them, and a row's first new token."""

    shape: Shape
    of_row: tuple[int, ...]
    starts: tuple[int, ...]


SMALL = {"D": 8, "heads": 2, "kv_heads": 1}
CASES = {
    "one prefix, adapters": Shared(Shape((9, 12, 7, 10), (-1, 0, 1, 0), 2, bias=True), (0, 0, 0, 0), (6, 6, 6, 6)),
    "two prefixes, a row without, one cut short": Shared(
        Shape((9, 12, 7, 5, 8, 20), norms=True), (1, 0, 1, 0, 1, 0), (6, 11, 6, 0, 3, 11)
    ),
    "windows that begin in the prefix and behind it": Shared(
        Shape((12, 12, 9, 30, 14), windows=(6, 0), norms=True), (0, 0, 0, 0, 0), (8, 8, 8, 8, 8)
    ),
    "prefixes over the chunks' borders": Shared(
        Shape((705, 1100, 701, 513, 512, 1025, 510), **SMALL),
        (0, 0, 0, 1, 1, 2, 2),
        (700, 700, 300, 512, 511, 1024, 509),
    ),
    "windows over the chunks' borders": Shared(
        Shape((705, 1100, 703, 1100, 1200), windows=(186, 700), **SMALL), (0, 0, 0, 0, 0), (700, 700, 700, 513, 700)
    ),
    "nine heads of one key head, no multiples of 16": Shared(
        Shape((6, 7, 8, 9, 10), H=42, D=10, heads=9, kv_heads=1, mlp=37), (0, 0, 0, 0, 0), (5, 5, 5, 5, 5)
    ),
    "as many key heads as heads": Shared(Shape((40, 33, 35), heads=2, kv_heads=2, D=32), (0, 0, 0), (32, 32, 32)),
    "odd numbers of positions, whose values are summed in twos": Shared(
        Shape((40, 37, 41, 40, 33, 35, 6), heads=4, kv_heads=2, D=32, windows=(0, 9)),
        (0, 0, 0, 1, 1, 1, 1),
        (33, 33, 21, 32, 32, 7, 5),
    ),
    "odd numbers in the second chunk, and columns by sixteen": Shared(
        Shape((540, 531, 700), D=48, heads=2, kv_heads=1, windows=(150, 0)), (0, 0, 0), (525, 525, 526)
    ),
    "nineteen rows": Shared(Shape((6,) * 19, (0,) * 19, 1), (1,) * 19, (4,) * 19),
}  # fmt: skip


def both(case: Shared, dtype: torch.dtype, tokens: int) -> tuple[Step, Step, Tensor]:
    """Rows that hold all of their positions, the same rows that share prefixes, and new tokens' embeddings."""
    whole, embedded = before_tokens(case.shape, dtype, tokens)
    L, two, R, kv_heads, _, D = whole.cache.shape
    P = max(case.of_row) + 1
    sharing = new_sharing(R, P, "cpu")
    sharing.of_row.copy_(torch.tensor(case.of_row))
    sharing.lengths.copy_(torch.tensor(case.starts))
    sharing.extents.scatter_reduce_(0, sharing.of_row.long(), sharing.lengths, "amax")
    sharing.regroup()
    prefixes = torch.randn(L, two, P, kv_heads, max(case.starts) + 2, D, generator=torch.Generator().manual_seed(2))
    prefixes = prefixes.to(dtype)
    for prefix, extent in enumerate(sharing.extents.tolist()):
        prefixes[:, :, prefix, :, extent:] = torch.nan
    held = [length - start for length, start in zip(whole.lengths.tolist(), case.starts, strict=True)]
    tails = torch.full((L, two, R, kv_heads, max(held) + tokens, D), torch.nan, dtype=dtype)
    for row, (prefix, start, count) in enumerate(zip(case.of_row, case.starts, held, strict=True)):
        whole.cache[:, :, row, :, :start] = prefixes[:, :, prefix, :, :start]
        tails[:, :, row, :, :count] = whole.cache[:, :, row, :, start : start + count]
    shared = replace(whole, cache=tails, lengths=whole.lengths.clone(), sharing=sharing, prefixes=prefixes)
    return whole, shared, embedded


def check_same_bits(case: Shared, dtype: torch.dtype, parts: tuple[int, ...]) -> None:
    """So are the keys and values that are stored, and nothing else is written."""
    whole, shared, embedded = both(case, dtype, sum(parts))
    before = shared.prefixes.clone()  # type: ignore[union-attr]
    assert torch.equal(shared.append(embedded, parts), whole.append(embedded, parts))
    assert torch.equal(shared.prefixes.nan_to_num(9), before.nan_to_num(9))  # type: ignore[union-attr]
    for row, (length, start) in enumerate(zip(whole.lengths.tolist(), case.starts, strict=True)):
        tail = shared.cache[:, :, row]
        assert torch.equal(tail[:, :, :, : length - start], whole.cache[:, :, row, :, start:length])
        assert bool(tail[:, :, :, length - start :].isnan().all())


def check_cases() -> None:
    for case in CASES.values():
        check_same_bits(case, torch.float32, (4,))


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rows_that_share_have_the_bits_of_rows_that_do_not(case: Shared, dtype: torch.dtype) -> None:
    for parts in ((1,) * 4, (4,), (8,), (1, 3)):
        check_same_bits(case, dtype, parts)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_rows_that_share_are_the_oracle_s(case: Shared, dtype: torch.dtype) -> None:
    check_the_oracle(case, dtype)


def check_the_oracle(case: Shared, dtype: torch.dtype) -> None:
    whole, shared, embedded = both(case, dtype, 4)
    expected, _ = true_tokens(whole, embedded)
    error = (shared.append(embedded, (4,)).double() - expected).abs().amax() / expected.abs().amax()
    assert float(error) < TOLERANCE[dtype], f"off by {float(error):.2g}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("case", CASES.values(), ids=CASES.keys())
def test_a_row_does_not_depend_on_who_shares_with_it_or_on_the_threads(case: Shared, dtype: torch.dtype) -> None:
    _, shared, embedded = both(case, dtype, 3)
    together = shared.append(embedded, (3,))
    for row, (prefix, start) in enumerate(zip(case.of_row, case.starts, strict=True)):
        _, own, _ = both(case, dtype, 3)
        alone = own.rows([row])
        alone.sharing, alone.prefixes = new_sharing(1, 1, "cpu"), own.prefixes[:, :, [prefix]].clone()  # type: ignore[index]
        alone.sharing.lengths.fill_(start)
        assert torch.equal(alone.append(embedded[[row]], (3,)), together[[row]])
    torch.set_num_threads(2)
    try:
        _, other, _ = both(case, dtype, 3)
        assert torch.equal(other.append(embedded, (3,)), together)
    finally:
        torch.set_num_threads(1)


def test_who_shares_is_read_at_every_call() -> None:
    whole, shared, embedded = both(CASES["two prefixes, a row without, one cut short"], torch.float32, 2)
    decode, sharing = shared.decode(), shared.sharing
    assert sharing is not None and shared.prefixes is not None
    with_both = shared.append(embedded[:, :1], (1,))
    shared.prefixes.copy_(shared.prefixes.flip(2))
    sharing.of_row.copy_(1 - sharing.of_row)
    sharing.regroup()
    again = decode(embedded[:, 0].contiguous())
    assert torch.equal(again, with_both[:, 0])
    assert torch.equal(again, whole.append(embedded[:, :1], (1,))[:, 0])


def test_what_a_row_does_not_see_of_a_prefix_is_not_read_for_it() -> None:
    case = CASES["two prefixes, a row without, one cut short"]
    clean, spoilt = both(case, torch.float32, 2)[1], both(case, torch.float32, 2)[1]
    embedded = both(case, torch.float32, 2)[2]
    spoilt.prefixes[:, :, 1, :, 3:] = torch.nan  # type: ignore[index]
    hidden = spoilt.append(embedded, (2,))
    assert torch.equal(hidden[[1, 3, 4, 5]], clean.append(embedded, (2,))[[1, 3, 4, 5]])
    assert bool(hidden[[0, 2]].isnan().all())


def check_the_twos() -> None:
    """The oracle too: what is left out is left out by both."""
    check_cases_in_twos()
    for name, case in CASES.items():
        if name.startswith("odd"):
            check_the_oracle(case, torch.bfloat16)


def check_cases_in_twos() -> None:
    for case in CASES.values():
        check_same_bits(case, torch.bfloat16, (1,) * 4)
        check_same_bits(case, torch.bfloat16, (4,))


@pytest.mark.parametrize("flag", ["-DEMULATE_DOT", "-DEMULATE_WIDE"])
def test_so_it_is_with_the_instructions_of_other_processors(flag: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, flag)
    check_cases_in_twos()


# name: source, what stands there once, what is put in its place
MUTANTS = {
    "stored a place early": (
        "attention.h", "position - start_of(a, row))", "position - start_of(a, row) - (start_of(a, row) > 0))",
    ),
    "prefixes of the first layer": ("decoder.h", "m->prefixes + 2 * index * prefix_half", "m->prefixes"),
    "keys for values": ("decoder.h", "prefix_keys + prefix_half, m->starts", "prefix_keys, m->starts"),
    "the first prefix for all": ("attention.h", "((who * a->kv_heads + kv_head) * shared->T", "(kv_head * shared->T"),
    "the first key head's prefix": (
        "attention.h", "((who * a->kv_heads + kv_head) * shared->T", "(who * a->kv_heads * shared->T",
    ),
    "rows by place instead of by order": ("attention.h", "row = shared->order[i],", "row = i,"),
    "one position of the prefix too few": (
        "attention.h", "chunk.count = shared->starts[row] - from;", "chunk.count = shared->starts[row] - from - 1;",
    ),
    "one position of the prefix too many": (
        "attention.h", "chunk.count = shared->starts[row] - from;", "chunk.count = shared->starts[row] - from + 1;",
    ),
    "all with the first one's border": ("attention.h", "|| p->border != border", "|| p->border > border"),
    "all with the first one's window": ("attention.h", "p->begin != token.begin || ", ""),
    "the chunk that ends a prefix done twice": (
        "attention.h", "from >= start_of(a, row)", "from + CHUNK > start_of(a, row)",
    ),
    "the chunk that ends a prefix done by nobody": (
        "attention.h", "if (chunk.count > 0)", "if (chunk.count >= CHUNK)",
    ),
    "values behind the border written over": ("chunk.h", "sums[q] = g->on ? arrange(", "sums[q] = 0 ? arrange("),
    "a rest of values behind the border written over": ("chunk.h", "g.on ? g.out[q][2 + d] : 0.0f", "0.0f"),
    "weights behind the border from the chunk's first on": (
        "chunk.h", "all(from_operand(g->weights[q * WEIGHTS + g->from + t]))",
        "all(from_operand(g->weights[q * WEIGHTS + t]))",
    ),
    "a second pass with the first one's heads": ("attention.h", "(first + v) % G, place", "v % G, place"),
    "a second pass left out": ("attention.h", "int64_t vectors = p->count * ", "int64_t vectors = !!p->count * "),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_prefixes_is_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_killed(monkeypatch, edited_source(*MUTANTS[name]), check_cases)


# Of sums in twos, which AVX512-BF16 has: the same.
TWOS = {
    "a last odd position left out": ("attention.h", "if (own[v].count || before)", "if (own[v].count)"),
    "the odd one with the next one's weight": (
        "chunk.h", "g->weights + g->from - 1, g->before + d", "g->weights + g->from, g->before + d",
    ),
    "the one beside the odd one twice": ("chunk.h", "values : 0, sums), t = 1;", "values : 0, sums), t = 0;"),
    "the one beside the odd one left out": ("chunk.h", "g->s.count ? values : 0, sums)", "0, sums)"),
    "the odd one left out of columns by sixteen": (
        "chunk.h", "{ return PAIR > 1 && g->before ? -1 : 0; }", "{ return 0; }",
    ),
    "a lone last one left out": ("chunk.h", "    if (t < g->s.count)\n        add_two", "    if (0)\n        add_two"),
    "odd columns of one position, even ones of the next": (
        "chunk.h", "(near >> 16) | (far & 0xffff0000u)", "(near >> 16) | (far << 16)",
    ),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", TWOS)
def test_a_mutant_of_the_sums_in_twos_is_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, "-DEMULATE_DOT")
    assert_killed(monkeypatch, edited_source(*TWOS[name]), check_the_twos)
