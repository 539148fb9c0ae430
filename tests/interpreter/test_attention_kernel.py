"""decode_attention's kernels in Triton's interpreter: against the oracle, on their own memory only, and mutants."""

import math
from collections.abc import Callable

import attention_cases as cases
import pytest
import torch
from attention_cases import ORDERS, TOLERANCE, Case, assert_agrees, same_bits
from mutations import Mutation, assert_killed, edited

from genarm_kernels import decode_attention
from genarm_kernels.layer import attention

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
empty = torch.empty


@pytest.fixture(autouse=True)
def what_is_not_written_is_nan(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "empty", lambda *a, **k: empty(*a, **k).fill_(math.nan))


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("D", [1, 8, 16, 80, 128, 256])
def test_heads_of_any_size_agree_with_the_oracle(D: int, dtype: torch.dtype) -> None:
    assert_agrees(*Case(2, 2, 3, 1, D, 35).make([35, 18], dtype))


@pytest.mark.parametrize("window", [0, 40])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rows_have_any_length(dtype: torch.dtype, window: int) -> None:
    cases.check_lengths(dtype, window=window)


@pytest.mark.parametrize("order", ORDERS)
def test_caches_may_lie_in_memory_in_any_order(order: str) -> None:
    assert_agrees(*Case(2, 1, 4, 2, 16, 70).make([70, 33], torch.bfloat16, order))


def test_query_may_be_a_view() -> None:
    case = Case(2, 2, 4, 2, 16, 20)
    query, *rest = case.make([20, 9], torch.float32)
    view = torch.full((2, 5, 2, 40), math.nan)[:, :4, :, 7:23].transpose(1, 2)
    view.copy_(query)
    assert same_bits(decode_attention(view, *rest), decode_attention(query, *rest))


def test_scores_may_be_scaled_and_large() -> None:
    query, *rest = Case(2, 1, 2, 1, 16, 80).make([80, 7], torch.float32)
    assert_agrees(query, *rest, scale=1.0)
    assert_agrees(query, *rest, scale=0.0)
    assert_agrees(query, *rest, scale=-3.0)
    assert_agrees(query * 1e4, *rest)


def test_more_queries_than_a_tile_take_several() -> None:
    case = Case(1, 8, 12, 1, 16, 30)
    for dtype in (torch.float32, torch.bfloat16):
        assert attention.layout(dtype, 16, 8 * 12).tiles > 1
        assert_agrees(*case.make([29], dtype))


def test_nan_stays_with_the_row_and_the_heads_that_see_it() -> None:
    query, keys, values, lengths = Case(3, 1, 4, 2, 16, 70).make([70, 70, 70], torch.float32)
    whole = decode_attention(query, keys, values, lengths)
    keys[0, 69, 1], values[2, 3, 0] = math.nan, math.nan
    ours = decode_attention(query, keys, values, lengths)
    touched = ours.isnan().all(-1)[:, 0]
    assert touched.tolist() == [[False, False, True, True], [False] * 4, [True, True, False, False]]
    assert same_bits(ours[:, 0][~touched], whole[:, 0][~touched])


def test_lengths_beyond_the_cache_stay_in_it() -> None:
    query, keys, values, lengths = Case(2, 1, 2, 2, 16, 40).make([40, 40], torch.float32)
    beyond = torch.tensor([2**31 - 1, -5], dtype=torch.int32)
    ours = decode_attention(query, keys, values, beyond)
    assert same_bits(ours[:1], decode_attention(query, keys, values, lengths)[:1])
    assert not ours[1].any()


def test_no_rows_no_positions() -> None:
    assert decode_attention(*Case(0, 1, 2, 1, 8, 5).make([], torch.float32)).shape == (0, 1, 2, 8)
    assert not decode_attention(*Case(2, 1, 2, 1, 8, 0).make([0, 0], torch.float32)).any()


def test_a_row_does_not_depend_on_its_batch() -> None:
    cases.check_a_row_does_not_depend_on_its_batch(torch.bfloat16)


def test_the_longest_rows_have_as_many_splits_as_there_are() -> None:
    T = attention.SPLITS * 3 * attention.layout(torch.float32, 8, 1).block - 1
    assert attention.most_splits(T, 64) == attention.SPLITS
    assert_agrees(*Case(1, 1, 1, 1, 8, T).make([T], torch.float32))


def test_splits_never_outnumber_those_launched() -> None:
    for block in (16, 64):
        for T in (1, block, 15 * block + 1, 16 * block, 33 * block, 130 * block, 1000 * block + 3):
            most = attention.most_splits(T, block)
            for live in {1, block, 16 * block, 16 * block + 1, 32 * block, 128 * block + 1, T - 1, T}:
                blocks = -(-min(live, T) // block)
                each = max(-(-blocks // attention.SPLITS), 2 if blocks > attention.FINE else 1)
                assert -(-blocks // each) <= most <= attention.SPLITS


def bits_follow_the_row_alone() -> None:
    cases.check_a_row_does_not_depend_on_its_batch(torch.float32)


split, combine, parts = attention.split_kernel, attention.combine_kernel, attention.row_splits
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "last position dropped": (edited(split, "at <= place[:, None]", "at < place[:, None]"), cases.check_lengths),
    "no order among new tokens": (edited(split, "(at <= place[:, None])", "(at >= 0)"), cases.check_lengths),
    "garbage behind a row read": (edited(split, "(start + t < end)", "(start + t < positions)"), cases.check_lengths),
    "a length of 0 gives NaN": (edited(combine, "tl.where(total == 0.0, 1.0, total)", "total"), cases.check_lengths),
    "last split dropped": (edited(parts, "tl.cdiv(blocks, each)", "blocks // each"), cases.check_many_splits),
    "a split's end forgotten": (edited(split, "begin + size, length", "length, length"), cases.check_many_splits),
    "splits not rescaled": (edited(combine, "peak - tl.max(peak, 0)", "peak - peak"), cases.check_many_splits),
    "sums not rescaled": (edited(split, "total * kept[:, None]", "total"), cases.check_many_splits),
    "values not rescaled": (edited(split, "weighted * kept[:, None]", "weighted"), cases.check_many_splits),
    "heads and tokens swapped": (
        edited(split, "head * G + m % G", "head + m % G * (H // G)"),
        cases.check_heads_and_tokens_keep_their_places,
    ),
    "a token's head for its place": (edited(split, "m // G, head", "m % Q, head"), cases.check_windows),
    "window one too wide": (edited(split, "at > place", "at + 1 > place"), cases.check_windows),
    "window from the last token": (edited(parts, "length - Q + 1 - window", "length - window"), cases.check_windows),
    "splits by the cache's length": (
        edited(parts, "tl.cdiv(blocks, _SPLITS)", "tl.cdiv(positions, 140)"), bits_follow_the_row_alone
    ),
}  # fmt: skip


@pytest.mark.parametrize(
    "check", dict.fromkeys(check for _, check in MUTANTS.values()), ids=lambda check: check.__name__
)
def test_the_sound_kernels_pass(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(("mutate", "check"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_killed_by_its_check(
    monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]
) -> None:
    assert_killed(monkeypatch, mutate, check)
