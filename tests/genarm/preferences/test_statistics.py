"""Intervals: they cover what they should, widen with what pairs share, and never claim certainty."""

import numpy as np
import pytest

from genarm.preferences import statistics
from genarm.preferences.statistics import Estimate, paired_difference, share, wilson


def clustered_trials(generator, clusters, size, rate):
    """[clusters · size] bool: each cluster has a rate of its own, ``rate`` on average."""
    own = generator.beta(4 * rate, 4 * (1 - rate), size=clusters)
    return (generator.random((clusters, size)) < own[:, None]).ravel()


def numbers(found):
    return found.value, found.low, found.high


def test_wilson_intervals_are_those_of_the_books():
    for given, expected in (
        ((0, 10), (0.0, 0.0, 0.2775)),
        ((5, 10), (0.5, 0.2366, 0.7634)),
        ((300, 300), (1.0, 0.9874, 1.0)),
    ):
        assert numbers(wilson(*given)) == pytest.approx(expected, abs=5e-5)
    for successes, count in ((1, 0), (-1, 3), (4, 3)):
        with pytest.raises(ValueError, match="trials"):
            wilson(successes, count)


def test_the_interval_of_a_share_covers_it_about_95_times_in_100_when_pairs_come_in_clusters():
    generator = np.random.default_rng(5)
    names = [str(n // 5) for n in range(60 * 5)]
    trials, covered, covered_alone = 400, 0, 0
    for _ in range(trials):
        right = clustered_trials(generator, 60, 5, 0.7)
        found, alone = share(right, names, draws=400), share(right, draws=400)
        covered += found.low <= 0.7 <= found.high
        covered_alone += alone.low <= 0.7 <= alone.high
    # three standard errors of a rate of 0.95 over 400 trials are 0.033
    assert 0.915 <= covered / trials <= 0.985
    assert covered_alone / trials < 0.88


def test_the_interval_of_a_paired_difference_covers_it_about_95_times_in_100():
    generator = np.random.default_rng(6)
    names = [n // 4 for n in range(80 * 4)]
    trials, covered = 400, 0
    for _ in range(trials):
        easy = clustered_trials(generator, 80, 4, 0.8)
        a = easy & (generator.random(len(easy)) < 0.95)
        b = easy & (generator.random(len(easy)) < 0.85)
        found = paired_difference(a, b, names, draws=400)
        covered += found.low <= 0.08 <= found.high
    assert 0.915 <= covered / trials <= 0.985


@pytest.mark.parametrize("rate", [0.97, 0.99])
def test_shares_near_one_are_covered_too(rate):
    generator = np.random.default_rng(9)
    found = [share(generator.random(150) < rate, draws=400) for _ in range(400)]
    assert np.mean([one.low <= rate <= one.high for one in found]) >= 0.93


def test_a_share_without_an_exception_is_not_certain():
    names = [n // 4 for n in range(12)]
    right, wrong = share(np.ones(12, dtype=bool), names), share(np.zeros(12, dtype=bool), names)
    assert right.value == right.high == 1.0 and 0.2 < right.low < 0.6
    assert wrong.value == wrong.low == 0.0 and 0.4 < wrong.high < 0.8
    assert share(np.ones(300, dtype=bool)).low == pytest.approx(wilson(300, 300).low, abs=0.006)


@pytest.mark.parametrize(("apart", "decided"), [(4, False), (5, False), (6, True), (12, True)])
def test_pairs_all_of_one_side_decide_when_the_exact_sign_test_does(apart, decided):
    a, b = np.ones(400, dtype=bool), np.ones(400, dtype=bool)
    b[:apart] = False
    assert (2 * 0.5**apart < 0.05) == decided
    assert (paired_difference(a, b, draws=20_000).low > 0) == decided


def test_a_real_difference_leaves_zero_out_a_swap_turns_its_sign_and_none_is_not_certain():
    generator = np.random.default_rng(3)
    a = generator.random(500) < 0.9
    worse = a & (generator.random(500) < 0.9)
    found, swapped = paired_difference(a, worse), paired_difference(worse, a)
    assert found.low > 0 and found.value == pytest.approx(a.mean() - worse.mean())
    assert numbers(swapped) == pytest.approx((-found.value, -found.high, -found.low), abs=0.01)
    same = paired_difference(a, a)
    assert same.value == 0.0 and -0.02 < same.low < 0 < same.high < 0.02


def test_pairs_that_always_go_together_count_as_one():
    right = np.random.default_rng(10).random(40) < 0.9
    one, five, alone = share(right), share(right.repeat(5), [n // 5 for n in range(200)]), share(right.repeat(5))
    assert numbers(five) == pytest.approx(numbers(one))
    assert five.high - five.low > 1.8 * (alone.high - alone.low)


def test_what_two_scorers_have_in_common_cancels():
    generator = np.random.default_rng(4)
    a = generator.random(400) < 0.6
    b = a ^ (generator.random(400) < 0.05)
    found, alone = paired_difference(a, b), share(a)
    assert found.high - found.low < 0.7 * (alone.high - alone.low)


def test_weights_count_elements_as_often_as_they_say():
    right, weights = np.array([True, False, False, True]), np.array([3.0, 1.0, 0.0, 0.0])
    assert share(right, weights=weights).value == 0.75
    assert share(right[:2], weights=[3.0, 1.0]) == share(right, weights=weights)


def test_the_interval_depends_on_neither_block_size_nor_names_of_clusters(monkeypatch):
    right = np.random.default_rng(7).random(40) < 0.5
    names = [("prompt", n % 8) if n % 2 else n % 8 for n in range(40)]
    whole = share(right, names)
    assert whole == share(right, [n % 8 for n in range(40)])
    monkeypatch.setattr(statistics, "PICKS_AT_ONCE", 26)
    assert share(right, names) == whole


def test_what_has_no_interval_is_refused():
    for right, clusters, weights in (([], None, None), ([True], [1, 2], None), ([True], None, [0.0])):
        with pytest.raises(ValueError):
            share(right, clusters, weights)
    with pytest.raises(ValueError):
        paired_difference([True], [True, True])


def test_an_estimate_reads_as_percent():
    assert str(Estimate(0.9771, 0.9545, 0.9944)) == "97.7 [95.5, 99.4]"
    assert Estimate(1 / 3, 0.0, 1.0).as_dict() == {"value": 0.333333, "low": 0.0, "high": 1.0}
