"""Means with intervals, and the plot of reward against weight."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from genarm import GenARMError
from genarm.evaluation.plots import mean_and_interval, reward_against_weight


def test_the_interval_is_that_of_the_normal_approximation() -> None:
    mean, half = mean_and_interval([1.0, 2.0, 3.0, 4.0])
    assert mean == 2.5
    assert half == pytest.approx(1.96 * (5 / 3 / 4) ** 0.5)
    assert mean_and_interval([7.0]) == (7.0, 0.0)


def test_the_plot_is_a_png(tmp_path: Path) -> None:
    path = tmp_path / "plot.png"
    reward_against_weight({"art": {0.0: [-3.0, -2.0], 1.0: [-1.0, -1.5]}}, path, "reward", "title")
    assert path.read_bytes().startswith(b"\x89PNG")


def test_without_matplotlib_the_error_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(GenARMError, match=r"genarm\[plots\]"):
        reward_against_weight({"art": {0.0: [1.0]}}, tmp_path / "plot.png", "reward", "title")
