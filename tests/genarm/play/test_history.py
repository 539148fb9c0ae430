"""What was tried: points, the front, and the plot of both."""

from __future__ import annotations

import math
import re

import pytest

from genarm.play.board import Board
from genarm.play.history import MOST_TRIED, front
from genarm.play.plot import plot_svg
from genarm.play.settings import PlaySettings
from genarm.play.written import WrittenPair, WrittenText, WrittenToken

NAMES = ("r", "s")


def pair(r: float, s: float) -> WrittenPair:
    guided = tuple(WrittenToken("x", -1.0, (r + d, s - d)) for d in (-0.5, 0.5))
    return WrittenPair(WrittenText((WrittenToken("y", -2.0, (-3.0, -4.0)),), "ended"), WrittenText(guided, "ended"))


@pytest.mark.parametrize(
    ("points", "expected"),
    [
        ([], []),
        ([(1, 1)], [(1, 1)]),
        ([(0, 2), (1, 1), (2, 0), (0, 0), (1, 0.5)], [(0, 2), (1, 1), (2, 0)]),
        ([(1, 1), (1, 2), (1, 2), (0, 2)], [(1, 2)]),
        ([(0, 1), (math.nan, 9), (math.inf, 9)], [(0, 1)]),
    ],
)
def test_the_front_is_what_nothing_dominates(points: list[tuple[float, float]], expected: list[object]) -> None:
    assert front(points) == expected


def test_a_run_is_kept_with_its_means_and_can_be_gone_back_to() -> None:
    board = Board()
    board.keep(PlaySettings(prompt="one", weights={"r": 1.0, "s": 0.0}), pair(-1.0, -2.0), NAMES)
    board.keep(PlaySettings(prompt="two", weights={"r": 0.5, "s": 0.0}, beta=2), pair(-3.0, -4.0), NAMES)
    assert board.current == 2 and [one.label() for one in board.tried] == ["1: r 1 · one", "2: r 0.5, β 2 · two"]
    assert board.tried[0].guided == {"base": -1.0, "r": -1.0, "s": -2.0}
    assert board.tried[0].base == {"base": -2.0, "r": -3.0, "s": -4.0}
    found = board.back_to(1)
    assert found is not None and found.settings.prompt == "one" and board.current == 1
    assert board.back_to(7) is None and board.current == 1


def test_old_runs_are_forgotten_and_numbers_go_on() -> None:
    board = Board()
    for _ in range(MOST_TRIED + 2):
        board.keep(PlaySettings(weights={}), pair(0, 0), NAMES)
    assert (board.tried[0].number, board.current) == (3, MOST_TRIED + 2)


def test_the_plot_has_every_run_and_says_so_in_words() -> None:
    assert "Nothing was tried yet" in plot_svg((), ("r", "s"), None)
    board = Board()
    for r in (-1.0, -2.0, -3.0):
        board.keep(PlaySettings(weights={}), pair(r, -r - 5), NAMES)
    board.keep(PlaySettings(weights={}), pair(math.nan, 0.0), NAMES)
    found = plot_svg(board.tried, ("r", "s"), 2)
    assert "Plot of 3 runs, r to the right and s upwards. Run 2, shown now, has -2.00 r and -3.00 s." in found
    assert {"1", "2", "3"} <= set(re.findall(r">(\d)</text>", found)) and "#010203" not in found
    assert "currentColor" in found
    for _ in range(4):
        board.keep(PlaySettings(weights={}), pair(-1.0, -4.0), NAMES)
    assert ">1 … 8</text>" in plot_svg(board.tried, ("r", "s"), 8), "runs at one point have one label"
