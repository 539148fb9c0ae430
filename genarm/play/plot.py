"""The plot of what was tried: one reward against another, as SVG in the page's own colours, light or dark."""

from __future__ import annotations

import io
import math
import re
from collections.abc import Sequence
from html import escape
from typing import Any

from ..evaluation.plots import COLOURS, new_figure, open_frame
from .history import Point, Tried, front
from .written import BASE

WIDTH, HEIGHT = 5.4, 3.6  # inches
INK = "#010203"  # stands for the page's text colour, which matplotlib does not know
LABELLED = 30  # runs that have their number beside them, the latest ones
MARGIN = 0.08  # of the range, around the points


def plot_svg(tried: Sequence[Tried], axes: tuple[str, str], current: int | None) -> str:
    """The plot as an HTML figure with its description; a sentence where nothing was tried yet.

    axes: what lies to the right and upwards, names of reward models or "base".
    current: the number of the run that is shown, which is marked.
    """
    guided = {one.number: (one.guided[axes[0]], one.guided[axes[1]]) for one in tried}
    plain = sorted({(one.base[axes[0]], one.base[axes[1]]) for one in tried})
    shown = {number: point for number, point in guided.items() if all(map(math.isfinite, point))}
    if not shown:
        return "<p>Nothing was tried yet: every finished run becomes a point here.</p>"
    figure = new_figure(WIDTH, HEIGHT)
    panel = figure.subplots()
    _points(panel, shown, [point for point in plain if all(map(math.isfinite, point))], current)
    for name, label in zip(axes, (panel.set_xlabel, panel.set_ylabel), strict=True):
        label(axis_label(name), color=INK)
    _frame(panel)
    return f"<figure aria-label='{escape(described(shown, axes, current))}'>{_svg(figure)}</figure>"


def axis_label(name: str) -> str:
    """What an axis measures."""
    return "base: log π_base, nats per token" if name == BASE else f"{name}: log π_r, nats per token"


def described(shown: dict[int, Point], axes: tuple[str, str], current: int | None) -> str:
    """The plot in words."""
    x, y = axes
    text = f"Plot of {len(shown)} run{'s' * (len(shown) != 1)}, {x} to the right and {y} upwards."
    if current in shown:
        text += f" Run {current}, shown now, has {shown[current][0]:.2f} {x} and {shown[current][1]:.2f} {y}."
    return text


def _points(panel: Any, shown: dict[int, Point], plain: Sequence[Point], current: int | None) -> None:
    line = front(list(shown.values()))
    panel.step(*zip(*line, strict=True), where="pre", color=COLOURS[0], linewidth=1.2, zorder=1, label="front")
    if plain:
        panel.scatter(
            *zip(*plain, strict=True), marker="*", s=110, color="none", edgecolors=INK, zorder=2, label="base alone"
        )
    others = [point for number, point in shown.items() if number != current]
    if others:
        panel.scatter(*zip(*others, strict=True), s=36, color=COLOURS[0], zorder=3, label="guided")
    if current in shown:
        now = shown[current]
        panel.scatter(*now, marker="D", s=80, color=COLOURS[1], edgecolors=INK, zorder=4, label=f"run {current}, shown")
    labels: dict[Point, list[str]] = {}
    for number in list(shown)[-LABELLED:]:
        labels.setdefault(shown[number], []).append(str(number))
    for point, numbers in labels.items():
        label = ", ".join(numbers) if len(numbers) < 4 else f"{numbers[0]} … {numbers[-1]}"
        panel.annotate(label, point, xytext=(6, 5), textcoords="offset points", fontsize=9, color=INK, zorder=5)


def _frame(panel: Any) -> None:
    panel.margins(MARGIN)
    panel.grid(alpha=0.25, color=INK)
    panel.tick_params(colors=INK, labelsize=9)
    for spine in panel.spines.values():
        spine.set_color(INK)
    open_frame(panel)
    panel.figure.legend(loc="outside upper left", ncols=4, frameon=False, fontsize=9, labelcolor=INK, borderaxespad=0.2)


def _svg(figure: Any) -> str:
    """The figure as an SVG element as wide as its place, its letters text."""
    from matplotlib import rc_context

    out = io.StringIO()
    with rc_context({"svg.fonttype": "none", "svg.hashsalt": "genarm"}):
        figure.savefig(out, format="svg", transparent=True, metadata={"Date": None})
    element = out.getvalue()
    element = element[element.index("<svg") :].replace(INK, "currentColor")
    element = re.sub(r' (width|height)="[\d.]+pt"', "", element, count=2)
    return element.replace("<svg ", "<svg role='img' aria-hidden='true' ", 1)
