"""Known scores give known accuracies, whole and in parts; and what length has to do with them."""

import numpy as np
import pytest

from genarm.evaluation.accuracy import (
    BUCKETS,
    accuracy,
    balancing_weights,
    bucket_numbers,
    length_rules,
    ordered_right,
    response_lengths,
)
from genarm.preferences.statistics import share

NAN = float("nan")


def test_a_pair_is_right_only_when_the_chosen_score_is_strictly_larger():
    scores = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [NAN, 0.0], [0.0, NAN], [-1.0, -np.inf]])
    assert ordered_right(scores).tolist() == [True, False, False, False, False, True]
    found = accuracy(scores, np.full((6, 2), 3), range(6))
    assert found.estimate.value == pytest.approx(1 / 3)
    assert (found.pairs, found.ties, found.undefined) == (6, 1, 2)
    tied = accuracy(np.zeros((2, 2)), np.array([[5, 3], [3, 5]]), range(2))
    assert tied.picks_longer.value == 0.0 and tied.ties == 2  # a tie picks neither response
    with pytest.raises(ValueError, match="one per pair"):
        accuracy(np.zeros((2, 2)), np.ones((3, 2), dtype=int), range(2))


def test_a_scorer_of_length_alone_is_found_out():
    lengths = np.random.default_rng(0).integers(1, 60, size=(600, 2))
    lengths.sort(axis=1)
    lengths[:480] = lengths[:480, ::-1]  # the longer response is chosen in four of five
    found = accuracy(lengths.astype(float), lengths, range(600))
    assert found.estimate.value == pytest.approx((lengths[:, 0] > lengths[:, 1]).mean()) and found.estimate.value > 0.7
    assert found.picks_longer.value == 1.0
    assert found.balanced.value == pytest.approx(0.5, abs=0.02)
    assert (found.buckets[0].estimate.value, found.buckets[-1].estimate.value) == (0.0, 1.0)
    assert (lengths[:, 0] != lengths[:, 1]).sum() + found.ties == 600


def test_buckets_and_parts_partition_the_pairs():
    generator = np.random.default_rng(1)
    lengths, scores = generator.integers(1, 60, size=(300, 2)), generator.random((300, 2))
    found = accuracy(scores, lengths, range(300), [f"v{n % 3}" for n in range(300)])
    assert [part.name for part in found.buckets] == list(BUCKETS)
    assert [(part.name, part.pairs) for part in found.parts] == [("v0", 100), ("v1", 100), ("v2", 100)]
    for parts in (found.buckets, found.parts):
        assert sum(part.pairs for part in parts) == 300
        right = sum(part.pairs * part.estimate.value for part in parts if part.estimate is not None)
        assert right == pytest.approx(300 * found.estimate.value)
    alone = accuracy(np.array([[1.0, 0.0]]), np.array([[3, 3]]), ["a"])
    assert [part.estimate is None for part in alone.buckets] == [True, True, False, True, True]
    assert alone.picks_longer is None and alone.balanced is not None


def test_every_interval_widens_where_pairs_share_what_is_resampled():
    right = np.repeat(np.random.default_rng(2).random(40) < 0.6, 5)
    scores = np.stack([right, ~right], axis=1).astype(float)
    lengths = np.array([[6, 5], [5, 6]])[np.arange(200) % 2]
    alone, together = (
        accuracy(scores, lengths, clusters, ["same"] * 200) for clusters in (range(200), [n // 5 for n in range(200)])
    )
    for pick in (
        lambda found: found.estimate,
        lambda found: found.balanced,
        lambda found: found.buckets[2].estimate,
        lambda found: found.parts[0].estimate,
    ):
        narrow, wide = pick(alone), pick(together)
        assert wide.high - wide.low > 1.6 * (narrow.high - narrow.low)


def test_lengths_are_those_of_the_responses_alone():
    pairs = [{"prompt_ids": [1] * 9, "chosen_ids": [5, 2], "rejected_ids": [6, 7, 2]}]
    assert response_lengths(pairs).tolist() == [[2, 3]] and response_lengths([]).shape == (0, 2)


def test_a_pair_falls_into_the_bucket_of_its_ratio():
    shown = [[(1, 3), (10, 21)], [(10, 20), (10, 13)], [(4, 5), (7, 7), (5, 4)], [(13, 10), (20, 10)], [(3, 1)]]
    for bucket, lengths in enumerate(shown):
        assert set(bucket_numbers(np.array(lengths)).tolist()) == {bucket}
    edges = [sides for k in range(1, 200) for sides in ((5 * k, 4 * k), (4 * k, 5 * k))]
    assert set(bucket_numbers(np.array(edges)).tolist()) == {2}
    assert set(bucket_numbers(np.array([(2 * k, k) for k in range(1, 200)])).tolist()) == {3}
    drawn = np.random.default_rng(0).integers(1, 60, size=(400, 2))
    assert (bucket_numbers(drawn) == len(BUCKETS) - 1 - bucket_numbers(drawn[:, ::-1])).all()


def test_no_rule_of_length_is_right_more_than_half_the_time_under_balancing_weights():
    lengths = np.random.default_rng(0).integers(1, 60, size=(400, 2))
    lengths = lengths[(lengths[:, 0] > lengths[:, 1]) | (np.arange(400) % 3 == 0)]  # the longer one mostly wins
    weights, number = balancing_weights(lengths), bucket_numbers(lengths)
    longer, unequal = lengths[:, 0] > lengths[:, 1], lengths[:, 0] != lengths[:, 1]
    assert longer.mean() > 0.7
    assert share(longer[unequal], weights=weights[unequal]).value == pytest.approx(0.5)
    assert weights[number == 4].sum() == pytest.approx(weights[number == 0].sum())
    assert weights.sum() == pytest.approx(len(lengths))
    # pairs that nothing balances do not count
    assert balancing_weights(np.array([[9, 1], [4, 4], [5, 4]])).tolist() == [0.0, 1.0, 0.0]


def test_the_length_rules_leave_equal_lengths_out_and_count_them():
    longer, shorter = length_rules(np.array([[4, 1], [3, 1], [2, 1], [1, 3], [2, 2]]), "abcde")
    assert (longer.name, longer.pairs, longer.equal) == ("longer wins", 4, 1)
    assert (longer.estimate.value, shorter.estimate.value) == (0.75, 0.25)
    assert [rule.estimate for rule in length_rules(np.array([[2, 2]]), "a")] == [None, None]
