"""decode_attention on a CPU, in torch operations, and what it refuses."""

import math
from typing import Any

import attention_cases as cases
import pytest
import torch
from attention_cases import ORDERS, TOLERANCE, Case, assert_agrees, same_bits

from genarm_kernels import decode_attention


@pytest.mark.parametrize("order", ORDERS)
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
@pytest.mark.parametrize("D", [8, 16, 32, 64, 80, 96, 128, 256])
def test_heads_of_any_size_agree_with_the_oracle(D: int, dtype: torch.dtype, order: str) -> None:
    for Q in (1, 2):
        assert_agrees(*Case(2, Q, 6, 2, D, 35).make([35, 18], dtype, order))


@pytest.mark.parametrize("window", [0, 1, 40])
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_rows_have_any_length(dtype: torch.dtype, window: int) -> None:
    cases.check_lengths(dtype, window=window)


def test_long_rows() -> None:
    cases.check_many_splits()


def test_heads_and_tokens_keep_their_places() -> None:
    cases.check_heads_and_tokens_keep_their_places()


def test_windows() -> None:
    cases.check_windows()


@pytest.mark.parametrize("window", [0, 1, 2, 30])
@pytest.mark.parametrize("Q", [1, 4, 8])
def test_what_the_host_knows_changes_nothing(Q: int, window: int) -> None:
    case = Case(3, Q, 4, 2, 16, 40)
    uneven = case.make([20, 3, 17], torch.float32)
    plain = assert_agrees(*uneven, window=window)
    for longest in (20, 31):
        torch.testing.assert_close(assert_agrees(*uneven, window=window, longest=longest), plain)
    for length in (1, Q, 20, 40):
        assert_agrees(*case.make([length] * 3, torch.float32), window=window, longest=length, even=True)


def test_nothing_beyond_the_longest_row_is_touched(monkeypatch: pytest.MonkeyPatch) -> None:
    query, keys, values, lengths = Case(2, 1, 4, 2, 16, 40).make([20, 20], torch.float32)
    short = decode_attention(query, keys[:, :20], values[:, :20], lengths)
    # What cleans up behind the rows is not called for.
    monkeypatch.setattr(torch.Tensor, "where", None, raising=False)
    assert same_bits(decode_attention(query, keys, values, lengths, longest=20), short)
    assert same_bits(decode_attention(query, keys, values, lengths, longest=20, even=True), short)


def test_nan_in_a_row_stays_there() -> None:
    query, keys, values, lengths = Case(3, 1, 4, 2, 16, 70).make([70, 70, 60], torch.float32)
    keys[0, 69, 1], values[2, 3, 0] = math.nan, math.nan
    ours = decode_attention(query, keys, values, lengths)
    assert ours.isnan().all(-1)[:, 0].tolist() == [[False, False, True, True], [False] * 4, [True, True, False, False]]


def test_no_rows_no_positions() -> None:
    assert decode_attention(*Case(0, 1, 2, 1, 8, 5).make([], torch.float32)).shape == (0, 1, 2, 8)
    assert not decode_attention(*Case(2, 1, 2, 1, 8, 0).make([0, 0], torch.float32)).any()


def changed(**changes: Any) -> dict[str, Any]:
    names = ("query", "key_cache", "value_cache", "lengths")
    return {**dict(zip(names, Case(2, 1, 4, 2, 16, 10).make([10, 4], torch.float32), strict=True)), **changes}


@pytest.mark.parametrize(
    ("changes", "error", "said"),
    [
        ({"query": torch.zeros(2, 4, 16)}, ValueError, r"expected \[R, Q, H, D\]"),
        ({"value_cache": torch.zeros(2, 9, 2, 16)}, ValueError, "twice the same"),
        ({"query": torch.zeros(3, 1, 4, 16)}, ValueError, "the same R and D"),
        ({"query": torch.zeros(2, 1, 4, 8)}, ValueError, "the same R and D"),
        ({"query": torch.zeros(2, 1, 3, 16)}, ValueError, "H a multiple of H_kv"),
        ({"query": torch.zeros(2, 9, 4, 16)}, ValueError, "9 tokens a row.*prefill_attention"),
        (
            {name: torch.zeros(2, 1, 2, 264) for name in ("query", "key_cache", "value_cache")},
            ValueError,
            "heads of 264: at most 8 and 256",
        ),
        ({"query": torch.zeros(2, 1, 4, 16, dtype=torch.float64)}, TypeError, "float64: expected bfloat16"),
        ({"query": torch.zeros(2, 1, 4, 16, dtype=torch.bfloat16)}, TypeError, "expected query's torch.bfloat16"),
        ({"key_cache": torch.zeros(2, 10, 2, 32)[..., ::2]}, ValueError, r"last dimension.*call \.contiguous"),
        ({"lengths": torch.tensor([10, 4])}, ValueError, "int64.*contiguous int32"),
        ({"lengths": torch.tensor([10], dtype=torch.int32)}, ValueError, r"expected contiguous int32 \[2\]"),
        ({"lengths": torch.tensor([10, 4], dtype=torch.int32, device="meta")}, ValueError, "move them to one device"),
        ({"window": -1}, ValueError, "window is -1"),
        ({"longest": 11}, ValueError, "expected 1 to 10"),
        ({"longest": 0}, ValueError, "expected 1 to 10"),
        ({"even": True}, ValueError, "pass longest too"),
    ],
)
def test_what_does_not_fit_is_refused_with_its_cause(
    changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    with pytest.raises(error, match=said):
        decode_attention(**changed(**changes))
