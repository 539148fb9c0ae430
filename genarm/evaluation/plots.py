"""Plots of accuracies with their intervals, and what every plot shares. matplotlib is an extra: genarm[plots]."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import GenARMError, InvalidArgumentError
from ..preferences.statistics import Estimate
from .accuracy import BUCKET_HEADS
from .report import Report, ScorerRow


def new_figure(width: float, height: float) -> Any:
    """An empty figure, its size in inches. Raises GenARMError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise GenARMError("matplotlib is not installed, so nothing was plotted: pip install 'genarm[plots]'") from None
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def check_picture(option: str, path: Path) -> None:
    """Raise InvalidArgumentError where matplotlib writes no file of that ending."""
    if path.suffix.lstrip(".").lower() not in new_figure(1, 1).canvas.get_supported_filetypes():
        raise InvalidArgumentError(f"{option} {path}: name a .png, .svg or .pdf file")


def open_frame(axes: Any) -> None:
    """Axes without lines above and to the right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


# Okabe and Ito's palette: told apart by every kind of colour vision.
COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
MARKERS = "osD^vP*X"
RULE_MARKS = {"longer wins": (">", "#666666"), "shorter wins": ("<", "#666666")}


def draw(reports: Sequence[Report], path: Path) -> None:
    """Write the picture of all reports to ``path`` (by its ending: png, svg, pdf).

    Raises:
        GenARMError: matplotlib is not installed.
        ValueError: an ending that matplotlib does not write.
    """
    heights = [1.6 + 0.32 * (len(report.rows) + len(report.rules)) for report in reports]
    figure = new_figure(11.0, sum(max(3.2, height) for height in heights))
    grid = figure.subplots(len(reports), 2, squeeze=False, height_ratios=[max(3.2, height) for height in heights])
    for (left, right), report in zip(grid, reports, strict=True):
        _scorers(left, report)
        _lengths(right, report)
    figure.savefig(path)


def _scorers(axes: Any, report: Report) -> None:
    """One line per scorer from the top, then the length baselines as marks without a colour of their own."""
    for place, row in enumerate(report.rows):
        colour, fill, marker = _look(report.rows, place)
        _point(axes, row.accuracy.estimate, place, color=colour, marker=marker, markerfacecolor=fill)
    labels = [row.label for row in report.rows]
    for rule in report.rules:
        if rule.estimate is not None:
            marker, colour = RULE_MARKS[rule.name]
            _point(axes, rule.estimate, len(labels), color=colour, marker=marker)
            labels.append(rule.name)
    axes.axvline(50, color="#bbbbbb", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    axes.set_xlabel("pairs ordered right, % (95% interval)")
    axes.set_title(f"{report.pairs.name}: {len(report.pairs.pairs):,} pairs", loc="left")
    axes.grid(axis="x", alpha=0.3)
    open_frame(axes)


def _point(axes: Any, estimate: Estimate, place: int, **look: Any) -> None:
    value, low, high = (100 * number for number in (estimate.value, estimate.low, estimate.high))
    axes.errorbar([value], [place], xerr=[[value - low], [high - value]], capsize=3, linestyle="", **look)


def _lengths(axes: Any, report: Report) -> None:
    """Accuracy in each length bucket; a scorer that follows length falls to one side."""
    rows = [(place, row) for place, row in enumerate(report.rows) if row.reduction != "mean" or len(report.rows) <= 4]
    for shift, (place, row) in enumerate(rows):
        colour, fill, marker = _look(report.rows, place)
        found = [(number, part.estimate) for number, part in enumerate(row.accuracy.buckets)]
        known = [(number, part) for number, part in found if part is not None]
        values = [100 * part.value for _, part in known]
        spread = [
            [100 * (part.value - part.low) for _, part in known],
            [100 * (part.high - part.value) for _, part in known],
        ]
        offset = 0.12 * (shift - (len(rows) - 1) / 2)
        look = {"color": colour, "marker": marker, "markerfacecolor": fill, "linewidth": 1.2, "capsize": 2}
        axes.errorbar([number + offset for number, _ in known], values, spread, label=row.label, **look)
    counts = [part.pairs for part in report.rows[0].accuracy.buckets]
    ticks = [f"{name}\nn = {count:,}" for name, count in zip(BUCKET_HEADS, counts, strict=True)]
    axes.axhline(50, color="#bbbbbb", linewidth=1, linestyle=(0, (4, 3)), zorder=0)
    axes.set_xticks(range(len(ticks)), ticks, fontsize=8)
    axes.set_xlim(-0.6, len(ticks) - 0.4)
    axes.set_ylim(-4, 104)
    axes.set_title("by which response is longer", loc="left")
    axes.grid(axis="y", alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="best")
    open_frame(axes)


def _look(rows: Sequence[ScorerRow], place: int) -> tuple[str, str, str]:
    """Colour, filling and marker: a scorer has one of each, and its per-token mean the same but hollow."""
    names = list(dict.fromkeys(row.name for row in rows))
    number = names.index(rows[place].name)
    colour = COLOURS[number % len(COLOURS)]
    return colour, "white" if rows[place].reduction == "mean" else colour, MARKERS[number % len(MARKERS)]
