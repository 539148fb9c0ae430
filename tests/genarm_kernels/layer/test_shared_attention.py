"""shared_attention: the oracle, prefixes, tails, windows, one result whoever shares, and what it refuses."""

import itertools
from dataclasses import replace
from typing import Any

import pytest
import shared_attention_cases as cases
import torch
from attention_cases import ORDERS, TOLERANCE, same_bits
from shared_attention_cases import Case, assert_agrees

from genarm_kernels import decode_attention, new_sharing, shared_attention
from genarm_kernels.layer.attention_arguments import new_arrivals

pytestmark = pytest.mark.usefixtures("stale_memory")


@pytest.mark.parametrize(
    ("Q", "H", "H_kv", "D", "dtype", "order"),
    [(*shape, *kind) for shape, kind in zip(
        ((1, 1, 1, 64), (2, 4, 1, 80), (3, 8, 1, 64), (4, 2, 2, 128), (5, 4, 1, 16), (6, 3, 3, 80), (7, 8, 1, 8),
         (8, 8, 2, 64), (8, 1, 1, 128)),
        itertools.product(TOLERANCE, ORDERS), strict=True)],
    ids=str,
)  # fmt: skip
def test_queries_of_any_rows_agree_with_the_oracle(
    Q: int, H: int, H_kv: int, D: int, dtype: torch.dtype, order: str, device: str
) -> None:
    cases.check_queries(Q, H, H_kv, D, dtype, order, device)


@pytest.mark.parametrize(("dtype", "window"), [*zip(TOLERANCE, (0, 0, 40), strict=True)], ids=str)
def test_rows_of_several_prefixes_agree_with_the_oracle(dtype: torch.dtype, window: int, device: str) -> None:
    cases.check_rows_of_several_prefixes(dtype, device, window)


def test_one_prefix_serves_all_rows(device: str) -> None:
    cases.check_one_prefix_for_all(device)


def test_rows_may_see_less_of_a_prefix_than_it_holds(device: str) -> None:
    cases.check_shorter_than_the_prefix(device)


def test_rows_have_any_length(device: str) -> None:
    cases.check_lengths(device)


def test_long_prefixes_are_taken_in_splits(device: str) -> None:
    cases.check_long_prefixes(device)


def test_windows_end_where_they_should(device: str) -> None:
    cases.check_windows(device)


def test_buffers_serve_again_after_rows_go_to_other_prefixes(device: str) -> None:
    cases.check_regrouped(device)


def test_nan_shows_where_it_is_seen(device: str) -> None:
    cases.check_nan_shows_where_it_is_seen(device)


def test_nan_that_a_token_does_not_see_leaves_it_alone_on_a_cpu() -> None:
    cases.check_nan_of_later_tokens()


def test_nan_of_a_prefix_leaves_rows_alone_that_do_not_see_it(device: str) -> None:
    cases.check_nan_leaves_rows_alone_that_do_not_see_it(device)


def test_many_rows_of_a_prefix_take_several_tiles(device: str) -> None:
    cases.check_several_tiles(device)


@pytest.mark.parametrize("Q", [1, 2, 8])
def test_a_row_does_not_depend_on_who_shares(Q: int, device: str) -> None:
    cases.check_a_row_does_not_depend_on_who_shares(device, Q)


def test_a_window_begins_where_a_row_has_it_whoever_shares(device: str) -> None:
    cases.check_windows_that_begin_side_by_side(device)


def test_scores_may_be_scaled_and_large(device: str) -> None:
    cases.check_large_scores(device)


def test_it_is_decode_attention_of_the_prefix_and_the_tail(device: str) -> None:
    inputs = Case(2, 4, 2, 16).make([0, 0], [70, 70], [9, 20], device=device)
    keys, values = (
        torch.cat([prefix.expand(2, -1, -1, -1)[:, :70], own], 1)
        for prefix, own in ((inputs.prefix_keys, inputs.keys), (inputs.prefix_values, inputs.values))
    )
    expected = decode_attention(inputs.query, keys, values, inputs.lengths)
    torch.testing.assert_close(inputs.call(), expected, rtol=1e-5, atol=1e-5)


def test_rows_without_prefixes_are_those_of_decode_attention(device: str) -> None:
    inputs = Case(1, 4, 2, 16, T_p=0).make([0, 0], [0, 0], [9, 20], device=device)
    own = decode_attention(inputs.query, inputs.keys, inputs.values, inputs.lengths)
    assert same_bits(inputs.call(), own)
    none = replace(inputs, prefix_keys=inputs.prefix_keys[:0], prefix_values=inputs.prefix_values[:0],
                   sharing=new_sharing(2, 0, device))  # fmt: skip
    assert same_bits(none.call(), own)


def test_no_rows_no_positions(device: str) -> None:
    assert Case(1, 2, 1, 8).make([], [], [], [7], device=device).call().shape == (0, 1, 2, 8)
    assert not Case(1, 2, 1, 8, 0, 0).make([0, 0], [0, 0], [0, 0], device=device).call().any()
    assert_agrees(Case(1, 2, 1, 8, 0).make([0, 0], [9, 4], [0, 0], device=device))


def test_nothing_beyond_what_the_host_knows_is_read_on_a_cpu(cpu: str) -> None:
    inputs = Case(1, 2, 1, 16).make([0, 0, 1], [33, 33, 7], [3, 9, 1], device=cpu)
    plain = inputs.call()
    assert same_bits(inputs.call(longest=42), plain)


GOOD = Case(1, 4, 2, 16, 10, 20).make([0, 1], [20, 4], [10, 4])
REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": torch.zeros(2, 4, 16)}, ValueError, r"expected \[R, Q, H, D\]"),
    ({"prefix_keys": torch.zeros(2, 20, 2, 8)}, ValueError, "expected twice the same"),
    ({"prefix_values": torch.zeros(2, 21, 2, 16)}, ValueError, "expected twice the same"),
    ({"prefix_keys": torch.zeros(2, 20, 2, 16).half()}, TypeError, "prefix_keys is torch.float16"),
    ({"prefix_values": torch.zeros(2, 20, 2, 32)[..., ::2]}, ValueError, "prefix_values.*last dimension contiguous"),
    ({"sharing": new_sharing(3, 2, "cpu")}, ValueError, r"of_row.*\[2\].*new_sharing\(2, 2, device\)"),
    ({"sharing": new_sharing(2, 1, "cpu")}, ValueError, r"sharing.extents.*expected contiguous int32 \[2\]"),
    (
        {"sharing": replace(GOOD.sharing, lengths=GOOD.sharing.lengths.long())},
        ValueError,
        "sharing.lengths is torch.int64",
    ),
    ({"window": -1}, ValueError, "window is -1"),
    ({"longest": 31}, ValueError, "longest is 31: expected 1 to 30"),
    ({"arrivals": torch.zeros(3, dtype=torch.int32)}, ValueError, "3 places and the call needs 4"),
]


@pytest.mark.parametrize(("changes", "error", "said"), REFUSED, ids=[said for _, _, said in REFUSED])
def test_what_does_not_fit_is_refused_with_its_cause(
    changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    names = ("query", "key_cache", "value_cache", "lengths", "prefix_keys", "prefix_values", "sharing")
    good = dict(zip(names, GOOD.arguments, strict=True)) | {"arrivals": new_arrivals(2, 4, 2, "cpu")}
    shared_attention(**good)
    with pytest.raises(error, match=said):
        shared_attention(**(good | changes))
