"""Length buckets, weights that take length's help away, and the length baselines."""

from __future__ import annotations

import numpy as np
import pytest

from genarm.evaluation.accuracy import BUCKETS, balancing_weights, bucket_numbers, length_rules, response_lengths
from genarm.evaluation.statistics import share


def drawn(count: int = 400, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(1, 60, size=(count, 2))


def test_lengths_are_those_of_the_responses_alone() -> None:
    pairs = [{"prompt_ids": [1] * 9, "chosen_ids": [5, 2], "rejected_ids": [6, 7, 2]}]
    assert response_lengths(pairs).tolist() == [[2, 3]]  # type: ignore[arg-type]
    assert response_lengths([]).shape == (0, 2)


@pytest.mark.parametrize(
    ("chosen", "rejected", "bucket"),
    [
        (1, 3, 0),
        (10, 21, 0),
        (10, 20, 1),
        (10, 13, 1),
        (4, 5, 2),
        (7, 7, 2),
        (5, 4, 2),
        (13, 10, 3),
        (20, 10, 3),
        (3, 1, 4),
    ],
)
def test_a_pair_falls_into_the_bucket_of_its_ratio(chosen: int, rejected: int, bucket: int) -> None:
    assert bucket_numbers(np.array([[chosen, rejected]])).tolist() == [bucket]


def test_the_middle_bucket_holds_its_edges_at_any_length() -> None:
    edges = [(5 * k, 4 * k) for k in range(1, 200)] + [(4 * k, 5 * k) for k in range(1, 200)]
    assert set(bucket_numbers(np.array(edges)).tolist()) == {2}
    doubles = [(2 * k, k) for k in range(1, 200)]
    assert set(bucket_numbers(np.array(doubles)).tolist()) == {3}


def test_the_buckets_mirror_each_other() -> None:
    lengths = drawn()
    mirrored = len(BUCKETS) - 1 - bucket_numbers(lengths[:, ::-1])
    assert (bucket_numbers(lengths) == mirrored).all()


def test_no_rule_of_length_is_right_more_than_half_the_time_under_balancing_weights() -> None:
    lengths = drawn()
    lengths = lengths[
        (lengths[:, 0] > lengths[:, 1]) | (np.arange(len(lengths)) % 3 == 0)
    ]  # the longer one mostly wins
    weights, unequal = balancing_weights(lengths), lengths[:, 0] != lengths[:, 1]
    longer = lengths[:, 0] > lengths[:, 1]
    assert longer.mean() > 0.7
    assert share(longer[unequal], weights=weights[unequal]).value == pytest.approx(0.5)
    much_longer = bucket_numbers(lengths) == 4
    assert weights[much_longer].sum() == pytest.approx(weights[bucket_numbers(lengths) == 0].sum())
    assert weights.sum() == pytest.approx(len(lengths))


def test_pairs_that_nothing_balances_do_not_count() -> None:
    assert balancing_weights(np.array([[9, 1], [4, 4], [5, 4]])).tolist() == [0.0, 1.0, 0.0]


def test_longer_wins_leaves_equal_lengths_out_and_counts_them() -> None:
    longer, shorter = length_rules(np.array([[4, 1], [3, 1], [2, 1], [1, 3], [2, 2]]), "abcde")
    assert (longer.name, longer.pairs, longer.equal) == ("longer wins", 4, 1)
    assert longer.estimate is not None and longer.estimate.value == 0.75
    assert shorter.estimate is not None and shorter.estimate.value == 0.25


def test_the_length_rules_of_equal_lengths_say_nothing() -> None:
    assert [rule.estimate for rule in length_rules(np.array([[2, 2]]), "a")] == [None, None]
