"""What a guidance weight buys and what it costs: reward, distance from the base, and variety, as pictures."""

from __future__ import annotations

import io
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .plots import COLOURS, MARKERS, new_figure, open_frame

LINES = ("-", "--", "-.", ":")


@dataclass(frozen=True, slots=True)
class WeightPoint:
    """What was measured on the texts generated at one weight, one figure per text.

    ``rewards``: mean log π_r, and ``divergences``: mean log p(drawn) − log π_base, both in nats per token.
    ``distinct``: the share of distinct pairs of words among all pairs in these texts; NaN where there are none.
    """

    rewards: list[float]
    divergences: list[float]
    distinct: float


Curves = Mapping[str, Mapping[float, WeightPoint]]


@dataclass(frozen=True, slots=True)
class Panel:
    """One picture: what it shows of a point, as a mean and the half width of its interval (0 draws no bar)."""

    title: str
    label: str
    figure: Callable[[WeightPoint], tuple[float, float]]
    words: str


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the half width of its 95% interval (normal approximation; 0 for fewer than two values)."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, 1.96 * math.sqrt(variance / count)


def distinct_share(texts: Sequence[str], length: int = 2) -> float:
    """Distinct runs of ``length`` words over all such runs in ``texts``; NaN where there are none."""
    words = [text.split() for text in texts]
    runs = [tuple(row[start : start + length]) for row in words for start in range(len(row) - length + 1)]
    return len(set(runs)) / len(runs) if runs else math.nan


PANELS = (
    Panel(
        "What a weight buys",
        "reward: mean log π_r, nats per token",
        lambda point: mean_and_interval(point.rewards),
        "mean reward of the texts against the guidance weight, one line per reward model",
    ),
    Panel(
        "How far the texts leave the base",
        "KL to the base, nats per token",
        lambda point: mean_and_interval(point.divergences),
        "estimated KL divergence from the base against the guidance weight, one line per reward model",
    ),
    Panel(
        "How varied the texts are",
        "share of distinct word pairs",
        lambda point: (point.distinct, 0.0),
        "share of distinct word pairs in the texts against the guidance weight, one line per reward model",
    ),
)


def draw_trade_off(curves: Curves, path: Path) -> None:
    """Draw all panels beside one another as a PNG at ``path``. ``curves`` maps a name to {weight: its point}.

    Raises:
        GenARMError: matplotlib is not installed.
    """
    figure = new_figure(13.0, 4.4)
    for axes, panel in zip(figure.subplots(1, len(PANELS)), PANELS, strict=True):
        _draw(axes, panel, curves)
    for axes in figure.axes[1:]:
        axes.get_legend().remove()
    figure.savefig(path)


def trade_off_pictures(curves: Curves) -> dict[str, bytes]:
    """The same as one PNG per panel, by a description in words: for a page that is read on screens of any width."""
    found = {}
    for panel in PANELS:
        figure, file = new_figure(4.6, 4.2), io.BytesIO()
        _draw(figure.add_subplot(), panel, curves)
        figure.savefig(file, format="png")
        found[panel.words] = file.getvalue()
    return found


def _draw(axes: Any, panel: Panel, curves: Curves) -> None:
    """Lines that differ in colour, in marker and in stroke."""
    bars = 0
    step = 0.01 * max(weight for curve in curves.values() for weight in curve)  # bars beside one another
    for number, (name, curve) in enumerate(curves.items()):
        weights = sorted(curve)
        values, halves = zip(*(panel.figure(curve[weight]) for weight in weights), strict=True)
        look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
        bars = bars or (len(curve[weights[0]].rewards) if any(halves) else 0)
        stroke = LINES[number % len(LINES)]
        shown = halves if any(halves) else None
        places = [weight + step * (number - (len(curves) - 1) / 2) for weight in weights]
        axes.errorbar(places, values, shown, linestyle=stroke, capsize=3, elinewidth=0.8, label=name, **look)
    axes.set_title(panel.title, loc="left", fontsize=11)
    note = f"\nbars: 95% intervals of means over {bars} texts" if bars else ""
    axes.set_xlabel(f"guidance weight{note}")
    axes.set_ylabel(panel.label)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="best")
    open_frame(axes)
