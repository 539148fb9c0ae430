"""What a weight buys and costs: means with intervals, variety, and the plots of both."""

import math
import sys

import pytest

from genarm import GenARMError
from genarm.evaluation.trade_off import (
    PANELS,
    WeightPoint,
    _draw,
    distinct_share,
    draw_trade_off,
    mean_and_interval,
    trade_off_pictures,
)

CURVES = {
    name: {0.0: WeightPoint([-3.0, -2.0], [0.0, 0.1], 0.9), 1.0: WeightPoint([-1.0, -1.5], [1.0, 1.2], 0.5)}
    for name in ("art", "risk", "science")
}


def test_the_interval_is_that_of_the_normal_approximation():
    assert mean_and_interval([1.0, 2.0, 3.0, 4.0]) == (2.5, pytest.approx(1.96 * (5 / 3 / 4) ** 0.5))
    assert mean_and_interval([7.0]) == (7.0, 0.0)


def test_variety_is_the_share_of_distinct_word_pairs():
    assert distinct_share(["a b c", "a b d"]) == 3 / 4
    assert distinct_share(["the same words", "the same words"]) == 1 / 2
    assert math.isnan(distinct_share(["a", ""]))


def test_the_plots_are_pngs_and_without_matplotlib_the_error_says_what_to_install(tmp_path, monkeypatch):
    path = tmp_path / "plot.png"
    draw_trade_off(CURVES, path)
    pictures = trade_off_pictures(CURVES)
    assert len(pictures) == 3 and all(png.startswith(b"\x89PNG") for png in (path.read_bytes(), *pictures.values()))
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    for draw in (lambda: draw_trade_off(CURVES, path), lambda: trade_off_pictures(CURVES)):
        with pytest.raises(GenARMError, match=r"genarm\[plots\]"):
            draw()


def test_lines_differ_by_more_than_their_colour_and_the_axis_says_what_the_bars_are():
    figure = pytest.importorskip("matplotlib.figure").Figure()
    axes = figure.subplots(1, 3)
    for one, panel in zip(axes, PANELS, strict=True):
        _draw(one, panel, CURVES)
    for look in ("get_marker", "get_linestyle", "get_color"):
        assert len({getattr(entry[0], look)() for entry in axes[0].containers}) == len(CURVES)
    assert [("95% intervals of means over 2 texts" in one.get_xlabel()) for one in axes] == [True, True, False]
