"""Known scores give known accuracies, whole and in parts."""

from __future__ import annotations

import numpy as np
import pytest

from genarm.evaluation.accuracy import BUCKETS, accuracy, ordered_right

NAN = float("nan")


def test_a_pair_is_right_only_when_the_chosen_score_is_strictly_larger() -> None:
    scores = np.array([[2.0, 1.0], [1.0, 2.0], [1.0, 1.0], [NAN, 0.0], [0.0, NAN], [-1.0, -np.inf]])
    assert ordered_right(scores).tolist() == [True, False, False, False, False, True]
    found = accuracy(scores, np.full((6, 2), 3), range(6))
    assert found.estimate.value == pytest.approx(1 / 3)
    assert (found.pairs, found.ties, found.undefined) == (6, 1, 2)


def test_a_scorer_that_prefers_short_texts_loses_what_the_mean_per_token_wins() -> None:
    lengths = np.array([[20, 4]] * 10)
    sums = np.array([[-40.0, -12.0]] * 10)  # -2 a token against -3
    assert accuracy(sums, lengths, range(10)).estimate.value == 0.0
    assert accuracy(sums / lengths, lengths, range(10)).estimate.value == 1.0


def test_a_tie_picks_neither_response() -> None:
    found = accuracy(np.zeros((2, 2)), np.array([[5, 3], [3, 5]]), range(2))
    assert found.picks_longer is not None and found.picks_longer.value == 0.0 and found.ties == 2


def test_a_scorer_of_length_alone_is_found_out() -> None:
    generator = np.random.default_rng(0)
    lengths = generator.integers(1, 60, size=(600, 2))
    lengths.sort(axis=1)
    lengths[:480] = lengths[:480, ::-1]  # the longer response is chosen in four of five
    found = accuracy(lengths.astype(float), lengths, range(600))
    unequal = lengths[:, 0] != lengths[:, 1]
    assert found.estimate.value == pytest.approx((lengths[:, 0] > lengths[:, 1]).mean()) and found.estimate.value > 0.7
    assert found.picks_longer is not None and found.picks_longer.value == 1.0
    assert found.balanced is not None and found.balanced.value == pytest.approx(0.5, abs=0.02)
    assert [part.estimate.value for part in found.buckets if part.estimate][-1] == 1.0
    assert found.buckets[0].estimate is not None and found.buckets[0].estimate.value == 0.0
    assert unequal.sum() + found.ties == 600


def test_buckets_and_parts_partition_the_pairs() -> None:
    generator = np.random.default_rng(1)
    lengths, scores = generator.integers(1, 60, size=(300, 2)), generator.random((300, 2))
    values = [f"v{n % 3}" for n in range(300)]
    found = accuracy(scores, lengths, range(300), values)
    assert [part.name for part in found.buckets] == list(BUCKETS)
    assert [(part.name, part.pairs) for part in found.parts] == [("v0", 100), ("v1", 100), ("v2", 100)]
    for parts in (found.buckets, found.parts):
        assert sum(part.pairs for part in parts) == 300
        right = sum(part.pairs * part.estimate.value for part in parts if part.estimate is not None)
        assert right == pytest.approx(300 * found.estimate.value)


def test_every_interval_widens_where_pairs_share_what_is_resampled() -> None:
    generator = np.random.default_rng(2)
    right = np.repeat(generator.random(40) < 0.6, 5)
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


def test_a_bucket_without_pairs_has_no_accuracy() -> None:
    found = accuracy(np.array([[1.0, 0.0]]), np.array([[3, 3]]), ["a"])
    assert [part.estimate is None for part in found.buckets] == [True, True, False, True, True]
    assert found.picks_longer is None and found.balanced is not None


def test_lengths_of_other_pairs_are_refused() -> None:
    with pytest.raises(ValueError, match="one a pair"):
        accuracy(np.zeros((2, 2)), np.ones((3, 2), dtype=int), range(2))
