"""Intervals: they cover what they should, widen with what pairs share, and never claim certainty."""

from __future__ import annotations

import numpy as np
import pytest

from genarm.evaluation import statistics
from genarm.evaluation.statistics import Estimate, paired_difference, share, wilson


def clustered_trials(generator: np.random.Generator, clusters: int, size: int, rate: float) -> np.ndarray:
    """[clusters · size] bool: each cluster has a rate of its own, ``rate`` on average."""
    own = generator.beta(4 * rate, 4 * (1 - rate), size=clusters)
    return (generator.random((clusters, size)) < own[:, None]).ravel()


def test_wilson_intervals_are_those_of_the_books() -> None:
    for found, expected in (
        (wilson(0, 10), (0.0, 0.0, 0.2775)),
        (wilson(5, 10), (0.5, 0.2366, 0.7634)),
        (wilson(300, 300), (1.0, 0.9874, 1.0)),
    ):
        assert (found.value, found.low, found.high) == pytest.approx(expected, abs=5e-5)


@pytest.mark.parametrize(("successes", "count"), [(1, 0), (-1, 3), (4, 3)])
def test_shares_that_cannot_be_are_refused(successes: int, count: int) -> None:
    with pytest.raises(ValueError, match="trials"):
        wilson(successes, count)


def test_the_interval_of_a_share_covers_it_about_95_times_in_100_when_pairs_come_in_clusters() -> None:
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


def test_the_interval_of_a_paired_difference_covers_it_about_95_times_in_100() -> None:
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


def test_pairs_that_share_a_statement_widen_the_interval() -> None:
    right = np.repeat(np.random.default_rng(1).random(60) < 0.7, 5)
    alone, together = share(right), share(right, [n // 5 for n in range(300)])
    assert together.high - together.low > 1.8 * (alone.high - alone.low)
    assert alone.value == together.value == right.mean()


@pytest.mark.parametrize("rate", [0.97, 0.99])
def test_shares_near_one_are_covered_too(rate: float) -> None:
    generator = np.random.default_rng(9)
    found = [share(generator.random(150) < rate, draws=400) for _ in range(400)]
    assert np.mean([one.low <= rate <= one.high for one in found]) >= 0.93


def test_a_share_without_an_exception_is_not_certain() -> None:
    names = [n // 4 for n in range(12)]
    right, wrong = share(np.ones(12, dtype=bool), names), share(np.zeros(12, dtype=bool), names)
    assert right.value == right.high == 1.0 and 0.2 < right.low < 0.6
    assert wrong.value == wrong.low == 0.0 and 0.4 < wrong.high < 0.8
    many = share(np.ones(300, dtype=bool))
    assert many.low == pytest.approx(wilson(300, 300).low, abs=0.006)


def test_the_same_scorer_twice_differs_by_zero_but_not_for_certain() -> None:
    right = np.random.default_rng(2).random(200) < 0.8
    found = paired_difference(right, right)
    assert found.value == 0.0 and -0.02 < found.low < 0 < found.high < 0.02


@pytest.mark.parametrize(("apart", "decided"), [(4, False), (5, False), (6, True), (12, True)])
def test_pairs_all_of_one_side_decide_when_the_exact_sign_test_does(apart: int, decided: bool) -> None:
    a, b = np.ones(400, dtype=bool), np.ones(400, dtype=bool)
    b[:apart] = False
    assert (2 * 0.5**apart < 0.05) == decided
    assert (paired_difference(a, b, draws=20_000).low > 0) == decided


def test_a_real_difference_leaves_zero_out_and_a_swap_turns_its_sign() -> None:
    generator = np.random.default_rng(3)
    a = generator.random(500) < 0.9
    worse = a & (generator.random(500) < 0.9)
    found, swapped = paired_difference(a, worse), paired_difference(worse, a)
    assert found.low > 0 and found.value == pytest.approx(a.mean() - worse.mean())
    assert (swapped.value, swapped.low, swapped.high) == pytest.approx(
        (-found.value, -found.high, -found.low), abs=0.01
    )


def test_pairs_that_always_go_together_count_as_one() -> None:
    right = np.random.default_rng(10).random(40) < 0.9
    one, five = share(right), share(right.repeat(5), [n // 5 for n in range(200)])
    assert (five.value, five.low, five.high) == pytest.approx((one.value, one.low, one.high))


def test_what_two_scorers_have_in_common_cancels() -> None:
    generator = np.random.default_rng(4)
    a = generator.random(400) < 0.6
    b = a ^ (generator.random(400) < 0.05)
    found, alone = paired_difference(a, b), share(a)
    assert found.high - found.low < 0.7 * (alone.high - alone.low)


def test_weights_count_elements_as_often_as_they_say() -> None:
    right, weights = np.array([True, False, False, True]), np.array([3.0, 1.0, 0.0, 0.0])
    assert share(right, weights=weights).value == 0.75
    assert share(right[:2], weights=[3.0, 1.0]) == share(right, weights=weights)


def test_the_interval_does_not_depend_on_how_much_is_drawn_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    right = np.random.default_rng(7).random(50) < 0.5
    whole = share(right)
    monkeypatch.setattr(statistics, "PICKS_AT_ONCE", 130)
    assert share(right) == whole


def test_clusters_may_be_anything_hashable_in_any_order() -> None:
    right = np.random.default_rng(8).random(40) < 0.5
    names: list[object] = [("prompt", n % 8) if n % 2 else n % 8 for n in range(40)]
    assert share(right, names) == share(right, [n % 8 for n in range(40)])


@pytest.mark.parametrize(
    ("right", "clusters", "weights"), [([], None, None), ([True], [1, 2], None), ([True], None, [0.0])]
)
def test_what_has_no_interval_is_refused(right: list[bool], clusters: list[int] | None, weights: list[float]) -> None:
    with pytest.raises(ValueError):
        share(right, clusters, weights)
    if weights is None:
        with pytest.raises(ValueError):
            paired_difference(right, [*right, True])


def test_an_estimate_reads_as_percent() -> None:
    assert str(Estimate(0.9771, 0.9545, 0.9944)) == "97.7 [95.5, 99.4]"
    assert Estimate(1 / 3, 0.0, 1.0).as_dict() == {"value": 0.333333, "low": 0.0, "high": 1.0}
