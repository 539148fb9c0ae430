"""Means with intervals, and the plot of reward against weight."""

import sys

import pytest

from genarm import GenARMError
from genarm.evaluation.plots import mean_and_interval, reward_against_weight


def test_the_interval_is_that_of_the_normal_approximation():
    assert mean_and_interval([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(1.96 * (5 / 3 / 4) ** 0.5))
    assert mean_and_interval([7.0]) == (7.0, 0.0)


def test_the_plot_is_a_png_and_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    path, curves = tmp_path / "plot.png", {"art": {0.0: [-3.0, -2.0], 1.0: [-1.0, -1.5]}}
    reward_against_weight(curves, path, "reward", "title")
    assert path.read_bytes().startswith(b"\x89PNG")
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(GenARMError, match=r"genarm\[plots\]"):
        reward_against_weight(curves, path, "reward", "title")
