"""decode_attention: the oracle, lengths, windows, splits, one result whatever the batch, and what it refuses."""

import math
from typing import Any

import attention_cases as cases
import pytest
import torch
from attention_cases import ORDERS, TOLERANCE, Case, assert_agrees, same_bits
from gpu_cases import captured

from genarm_kernels import decode_attention, reference
from genarm_kernels.card import CARDS, Card
from genarm_kernels.layer.attention_arguments import arrivals_of, new_arrivals
from genarm_kernels.layer.attention_layout import FINE, SPLITS, layout, most_splits, programs, shared_bytes, stages

pytestmark = pytest.mark.usefixtures("stale_memory")
CUDA = "cuda"


@pytest.mark.parametrize("D", [1, 8, 16, 32, 64, 80, 96, 128, 256])
def test_heads_of_any_size_agree_with_the_oracle(D: int, device: str) -> None:
    for Q, order, dtype in zip((1, 2, 3), ORDERS, TOLERANCE, strict=True):
        assert_agrees(*Case(2, Q, 3, 1, D, 35).make([35, 18], dtype, order, device))


@pytest.mark.parametrize(("dtype", "window"), [*zip(TOLERANCE, (0, 0, 40), strict=True)], ids=str)
def test_rows_have_any_length(dtype: torch.dtype, window: int, device: str) -> None:
    cases.check_lengths(dtype, device, window)


def test_long_rows_are_taken_in_splits(device: str) -> None:
    cases.check_many_splits(device)


def test_heads_and_tokens_keep_their_places(device: str) -> None:
    cases.check_heads_and_tokens_keep_their_places(device)


def test_windows_end_where_they_should(device: str) -> None:
    cases.check_windows(device)


def test_caches_may_lie_in_memory_in_any_order_and_queries_be_views(device: str) -> None:
    for order in ORDERS:
        assert_agrees(*Case(2, 1, 4, 2, 16, 70).make([70, 33], torch.bfloat16, order, device))
    query, *rest = Case(2, 2, 4, 2, 16, 20).make([20, 9], torch.float32, device=device)
    view = torch.full((2, 5, 2, 40), math.nan, device=device)[:, :4, :, 7:23].transpose(1, 2)
    view.copy_(query)
    torch.testing.assert_close(decode_attention(view, *rest), decode_attention(query, *rest), rtol=1e-6, atol=1e-6)


def test_scores_may_be_scaled_and_large(device: str) -> None:
    query, *rest = Case(2, 1, 2, 1, 16, 80).make([80, 7], torch.float32, device=device)
    for scale in (1.0, 0.0, -3.0):
        assert_agrees(query, *rest, scale=scale)
    assert_agrees(query * 1e4, *rest)


def test_nan_stays_with_the_row_and_the_heads_that_see_it(device: str) -> None:
    query, keys, values, lengths = Case(3, 1, 4, 2, 16, 70).make([70, 70, 70], torch.float32, device=device)
    whole = decode_attention(query, keys, values, lengths)
    keys[0, 69, 1], values[2, 3, 0] = math.nan, math.nan
    ours = decode_attention(query, keys, values, lengths)
    touched = ours.isnan().all(-1)[:, 0]
    assert touched.tolist() == [[False, False, True, True], [False] * 4, [True, True, False, False]]
    torch.testing.assert_close(ours[:, 0][~touched], whole[:, 0][~touched], rtol=1e-6, atol=1e-6)


def test_no_rows_no_positions(device: str) -> None:
    assert decode_attention(*Case(0, 1, 2, 1, 8, 5).make([], torch.float32, device=device)).shape == (0, 1, 2, 8)
    assert not decode_attention(*Case(2, 1, 2, 1, 8, 0).make([0, 0], torch.float32, device=device)).any()


@pytest.mark.interpreter
def test_a_row_does_not_depend_on_its_batch() -> None:
    cases.check_a_row_does_not_depend_on_its_batch(torch.bfloat16)


@pytest.mark.interpreter
def test_more_queries_than_a_tile_take_several() -> None:
    cases.check_tiles()


@pytest.mark.interpreter
def test_lengths_beyond_the_cache_stay_in_it() -> None:
    query, keys, values, lengths = Case(2, 1, 2, 2, 16, 40).make([40, 40], torch.float32)
    beyond = torch.tensor([2**31 - 1, -5], dtype=torch.int32)
    ours = decode_attention(query, keys, values, beyond)
    assert same_bits(ours[:1], decode_attention(query, keys, values, lengths)[:1])
    assert not ours[1].any()


@pytest.mark.interpreter
def test_sums_are_added_in_one_order_by_any_number_of_programs() -> None:
    cases.check_order()


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_programs_fill_the_card_whatever_the_cache(card: Card) -> None:
    plan = layout(torch.bfloat16, 128, 4)
    fit = {(9, 0): 3, (10, 0): 3, (8, 0): 2, (8, 9): 1}[card.capability]
    for R in (1, 4, 16, 64):
        found = {programs(plan, card, R * 8, most_splits(T, plan.block)) for T in (8192, 131072)}
        assert found == {min(64, max(8, card.processors * fit // (R * 8)))}
        assert programs(plan, card, R * 8, most_splits(4096, plan.block)) == min(32, *found)
    assert programs(plan, card, 8, 1) == 1


@pytest.mark.parametrize("card", CARDS.values(), ids=CARDS)
def test_no_shape_takes_more_shared_memory_than_the_card_has(card: Card) -> None:
    chosen = {}
    for dtype in TOLERANCE:
        for D in (64, 96, 128, 256):
            for queries in range(1, 65):
                plan = layout(dtype, D, queries)
                chosen[dtype, D, queries] = stages(plan, card)
                assert shared_bytes(plan, stages(plan, card), card) <= card.shared_per_program
                assert programs(plan, card, 8, 64) >= 8
    # Two steps ahead everywhere but here.
    short = card.shared_per_program < 102400
    assert {key for key, count in chosen.items() if count < 3} == {
        (dtype, 256, queries) for dtype in (torch.bfloat16, torch.float16) for queries in range(33, 65) if short
    }


def test_arrivals_made_for_a_session_do_for_any_number_of_new_tokens() -> None:
    for H, H_kv in ((32, 8), (4, 4), (40, 1)):
        tiles = max(layout(dtype, 64, Q * H // H_kv).tiles for dtype in TOLERANCE for Q in range(1, 9))
        assert arrivals_of(3, H, H_kv) == 3 * H_kv * tiles == len(new_arrivals(3, H, H_kv, "cpu"))


def test_splits_never_outnumber_those_launched() -> None:
    T = SPLITS * 3 * layout(torch.float32, 8, 1).block - 1
    assert most_splits(T, 64) == SPLITS
    for block in (16, 64):
        for T in (1, block, 15 * block + 1, 16 * block, 33 * block, 130 * block, 1000 * block + 3):
            most = most_splits(T, block)
            for live in {1, block, 16 * block, 16 * block + 1, 32 * block, 128 * block + 1, T - 1, T}:
                blocks = -(-min(live, T) // block)
                each = max(-(-blocks // SPLITS), 2 if blocks > FINE else 1)
                assert -(-blocks // each) <= most <= SPLITS


@pytest.mark.interpreter
def test_the_longest_rows_have_as_many_splits_as_there_are() -> None:
    T = SPLITS * 3 * layout(torch.float32, 8, 1).block - 1
    assert_agrees(*Case(1, 1, 1, 1, 8, T).make([T], torch.float32))


@pytest.mark.parametrize(("Q", "window"), [(1, 0), (4, 1), (8, 2), (4, 30)])
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


REFUSED: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"query": torch.zeros(2, 4, 16)}, ValueError, r"expected \[R, Q, H, D\]"),
    ({"value_cache": torch.zeros(2, 9, 2, 16)}, ValueError, "twice the same"),
    ({"query": torch.zeros(3, 1, 4, 16)}, ValueError, "the same R and D"),
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
    ({"lengths": torch.tensor([10, 4], dtype=torch.int32, device="meta")}, ValueError, "move them to one device"),
    ({"window": -1}, ValueError, "window is -1"),
    ({"longest": 11}, ValueError, "expected 1 to 10"),
    ({"even": True}, ValueError, "pass longest too"),
    ({"arrivals": torch.zeros(8)}, ValueError, "arrivals is torch.float32.*int32 zeros"),
    ({"arrivals": torch.zeros(16, dtype=torch.int32)[::2]}, ValueError, "strides .2,.: expected contiguous"),
    ({"arrivals": torch.zeros(3, dtype=torch.int32)}, ValueError, "3 places and the call needs 4"),
    ({"arrivals": torch.zeros(4, dtype=torch.int32, device="meta")}, ValueError, "arrivals is on meta"),
]


@pytest.mark.parametrize(("changes", "error", "said"), REFUSED, ids=[said for _, _, said in REFUSED])
def test_what_does_not_fit_is_refused_with_its_cause(
    changes: dict[str, Any], error: type[Exception], said: str
) -> None:
    query, key_cache, value_cache, lengths = Case(2, 1, 4, 2, 16, 10).make([10, 4], torch.float32)
    good = {"query": query, "key_cache": key_cache, "value_cache": value_cache, "lengths": lengths}
    with pytest.raises(error, match=said):
        decode_attention(**(good | changes))


@pytest.mark.device
@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_a_row_does_not_depend_on_its_batch_on_a_gpu(dtype: torch.dtype) -> None:
    cases.check_a_row_does_not_depend_on_its_batch(dtype, CUDA)
    assert_agrees(*Case(1, 8, 40, 1, 128, 300).make([290], dtype, device=CUDA))


@pytest.mark.device
@pytest.mark.parametrize("window", [0, 4096])
def test_an_8b_model_s_rows_are_the_same_in_any_batch(window: int) -> None:
    case, lengths = Case(16, 1, 32, 8, 128, 32768), [32768, 16384, 4097, 4096, 1025, 1024, 65, 64, 1, 0] + [20000] * 6
    inputs = case.make(lengths, torch.bfloat16, device=CUDA)
    whole = decode_attention(*inputs, window=window)
    for row in (0, 2, 5, 9, 15):
        alone = [x[row : row + 1] for x in inputs]
        assert same_bits(decode_attention(*alone, window=window), whole[row : row + 1])
        expected = reference.decode_attention(*alone, window=window)
        torch.testing.assert_close(whole[row : row + 1].double(), expected, rtol=2e-2, atol=2e-2)


@pytest.mark.device
def test_rows_beyond_2_to_the_31_elements_are_reached() -> None:
    # Two caches of 4.3 GB; the last row's elements have numbers above 2³¹.
    R, T, H_kv, D = 17, 131072, 8, 128
    keys, values = (torch.zeros(R, H_kv, T, D, dtype=torch.bfloat16, device=CUDA) for _ in range(2))
    keys[-1, :, -40:].normal_()
    values[-1, :, -40:].normal_()
    lengths = torch.zeros(R, dtype=torch.int32, device=CUDA)
    lengths[-1] = T
    query = torch.randn(R, 1, 32, D, dtype=torch.bfloat16, device=CUDA)
    ours = decode_attention(query, keys.transpose(1, 2), values.transpose(1, 2), lengths, 1.0, 40)
    row = [x.transpose(1, 2)[-1:, -40:] for x in (keys, values)]
    expected = reference.decode_attention(query[-1:], *row, torch.tensor([40], device=CUDA), 1.0)
    torch.testing.assert_close(ours[-1:].double(), expected, rtol=2e-2, atol=2e-2)
    assert not ours[:-1].any()


@pytest.mark.device
def test_a_replayed_graph_follows_lengths_and_caches() -> None:
    query, keys, values, lengths = Case(3, 2, 8, 2, 64, 2000).make([2000] * 3, torch.bfloat16, device=CUDA)
    graph, out = captured(lambda: decode_attention(query, keys, values, lengths))
    for turn, now in enumerate(([2000, 1, 0], [5, 1100, 64], [1024, 1025, 2])):
        lengths.copy_(torch.tensor(now))
        keys.normal_()
        query.copy_(torch.randn_like(query) * (turn + 1))
        graph.replay()
        assert same_bits(out, assert_agrees(query, keys, values, lengths))
