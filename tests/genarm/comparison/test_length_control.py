"""The length-controlled win rate: what it takes away and what it leaves."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import minimize

from genarm.comparison.length_control import length_controlled


def simulated(skill: float, pull: float, shift: float, count: int = 4000) -> tuple[np.ndarray, np.ndarray]:
    """Preferences drawn from the model that is fitted, where answers are longer by ``shift`` standard deviations."""
    generator = np.random.default_rng(0)
    lengths = generator.normal(shift, 1.0, count) * 80
    chance = 1 / (1 + np.exp(-skill - pull * np.tanh(lengths / lengths.std())))
    return (generator.random(count) < chance).astype(float), lengths


def test_a_win_rate_that_is_all_length_falls_to_a_half() -> None:
    wins, lengths = simulated(0.0, 2.0, 1.0)
    found = length_controlled(wins, lengths, draws=100)
    assert wins.mean() > 0.7
    assert found.low < 0.5 < found.high and found.value == pytest.approx(0.5, abs=0.04)


def test_a_better_method_stays_better_when_its_answers_are_shorter() -> None:
    wins, lengths = simulated(1.0, 2.0, -1.0)
    found = length_controlled(wins, lengths, draws=100)
    assert wins.mean() < 0.5
    assert found.value == pytest.approx(1 / (1 + np.exp(-1.0)), abs=0.04)


def test_without_a_difference_of_lengths_it_is_nearly_the_win_rate() -> None:
    wins = [1.0] * 300 + [0.5] * 100 + [0.0] * 100
    assert length_controlled(wins, [0] * 500, draws=50).value == pytest.approx(350.5 / 501, abs=1e-6)


def test_the_fit_is_the_minimum_of_its_definition() -> None:
    wins, lengths = simulated(0.5, 1.0, 0.3, count=200)
    wins[::7] = 0.5
    terms = np.tanh(lengths / lengths.std())

    def loss(at: np.ndarray) -> float:
        score = at[0] + at[1] * terms
        made_up = 0.5 * np.log1p(np.exp(-at[0])) + 0.5 * np.log1p(np.exp(at[0]))
        return float((np.log1p(np.exp(score)) - wins * score).sum() + made_up + at[1] ** 2 / 2)

    theta = minimize(loss, np.zeros(2), tol=1e-12).x[0]
    assert length_controlled(wins, lengths, draws=10).value == pytest.approx(1 / (1 + np.exp(-theta)), abs=1e-5)


def test_a_method_that_always_wins_has_a_finite_rate_and_odd_input_is_refused() -> None:
    found = length_controlled([1.0] * 20, list(range(20)), draws=50)
    assert 0.9 < found.value < 1.0 and found.low <= found.value <= found.high
    with pytest.raises(ValueError, match="between 0 and 1"):
        length_controlled([2.0], [0])
    with pytest.raises(ValueError, match=r"give \[N\]"):
        length_controlled([], [])
