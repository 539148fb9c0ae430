"""A comparison as pictures: every method's figures beside one another, and what a score costs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..evaluation.plots import COLOURS, MARKERS, new_figure, open_frame
from ..preferences.statistics import Estimate
from .config import BASE
from .figures import MethodFigures

Figure = Callable[[MethodFigures], Estimate | float | None]


@dataclass(frozen=True, slots=True)
class Column:
    """One panel: a figure per method, a line each."""

    title: str
    figure: Figure
    logarithmic: bool = False


COLUMNS = (
    Column("judge RM's score", lambda row: row.score),
    Column("−log π_base per token, nats", lambda row: row.base_nats),
    Column("diversity within answers", lambda row: row.diversity),
    Column("seconds per token, base = 1", lambda row: row.cost, logarithmic=True),
)


def draw_figures(figures: Sequence[MethodFigures], path: Path) -> None:
    """Every method on a line of its own, the base on top, dots with 95% intervals.

    Raises:
        GenARMError: matplotlib is not installed.
    """
    picture = new_figure(13.0, 1.4 + 0.34 * len(figures))
    panels = picture.subplots(1, len(COLUMNS), sharey=True)
    for axes, column in zip(panels, COLUMNS, strict=True):
        for place, row in enumerate(figures):
            _dot(axes, column.figure(row), place, place)
        if column.logarithmic:
            _logarithmic(axes)
        own = next((column.figure(row) for row in figures if row.label == BASE), None)
        if own is not None:
            axes.axvline(_value(own), color="#bbbbbb", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
        axes.set_title(column.title, loc="left", fontsize=10)
        axes.grid(axis="x", alpha=0.3)
        open_frame(axes)
    panels[0].set_yticks(range(len(figures)), [row.label for row in figures])
    panels[0].set_ylim(len(figures) - 0.4, -0.6)
    picture.supxlabel("bars: 95% intervals over prompts; dashed: plain decoding of the base", fontsize=9)
    picture.savefig(path)


def draw_trade_offs(figures: Sequence[MethodFigures], path: Path) -> None:
    """The judge's score against what it costs in time, and against how unusual the base finds the answers."""
    picture = new_figure(12.0, 5.2)
    left, right = picture.subplots(1, 2, sharey=True)
    for place, row in enumerate(figures):
        if row.score is None:
            continue
        if row.cost is not None:
            _point(left, row.cost, row.score, row.label, place)
        if row.base_nats is not None:
            _point(right, row.base_nats.value, row.score, row.label, place)
    _logarithmic(left)
    left.set_xlabel("seconds per token, plain decoding of the base = 1")
    right.set_xlabel("−log π_base per token, nats: further right, less like the base")
    left.set_ylabel("judge RM's score (bars: 95% intervals over prompts)")
    for axes in (left, right):
        axes.grid(alpha=0.3)
        open_frame(axes)
    right.legend(frameon=False, fontsize=8, loc="center left", bbox_to_anchor=(1.0, 0.5))
    picture.savefig(path)


def _logarithmic(axes: Any) -> None:
    """A scale whose ticks are plain numbers: 1, 2, 5, 10, …"""
    axes.set_xscale("log", subs=[])
    axes.xaxis.get_major_locator().set_params(subs=(1.0, 2.0, 5.0))
    axes.xaxis.set_major_formatter(lambda value, place: f"{value:g}")


def _value(found: Estimate | float) -> float:
    return found.value if isinstance(found, Estimate) else found


def _look(place: int) -> dict[str, Any]:
    """A colour and a marker that no other of 64 methods has together."""
    turn = place // len(COLOURS)
    return {"color": COLOURS[place % len(COLOURS)], "marker": MARKERS[(place + turn) % len(MARKERS)]}


def _dot(axes: Any, found: Estimate | float | None, line: int, place: int) -> None:
    if found is None:
        return
    value = _value(found)
    reach = None
    if isinstance(found, Estimate):
        reach = [[value - found.low], [found.high - value]]
    axes.errorbar([value], [line], xerr=reach, capsize=2, linestyle="", markersize=5, **_look(place))


def _point(axes: Any, across: float, score: Estimate, label: str, place: int) -> None:
    reach = [[score.value - score.low], [score.high - score.value]]
    axes.errorbar([across], [score.value], yerr=reach, capsize=2, linestyle="", label=label, **_look(place))
