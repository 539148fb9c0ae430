"""The picture of the frontier: share judged on topic against base nats per token, one line per number of particles."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.particles.report import Figures, filters
from genarm.evaluation.plots import COLOURS, MARKERS, new_figure, open_frame

LABELLED = (0.25, 0.5, 1.0, 2.0)  # weights that are written beside the outermost lines


def draw(figures: Figures, path: Path) -> None:
    """One panel per filter, every panel with its own nats per token."""
    found = list(dict.fromkeys(row["base_min_p"] for row in figures["points"]))
    figure = new_figure(12.5, 6.0)
    panels = figure.subplots(1, len(found), squeeze=False)[0]
    for axes, base_min_p in zip(panels, found, strict=True):
        _panel(axes, figures, base_min_p)
        axes.set_title(f"{filters(base_min_p)}, weights 0.25 to 2", loc="left", fontsize=11)
        axes.set_xlabel("base nats per token, 95% intervals (left is more plausible)")
        axes.set_ylim(-3, 107)
        axes.grid(alpha=0.3)
        open_frame(axes)
    panels[0].set_ylabel(f"answers judged to be about {figures['objective']}, % (95% intervals)")
    figure.legend(
        *panels[0].get_legend_handles_labels(), frameon=False, fontsize=9, ncols=4, loc="outside lower center"
    )
    figure.savefig(path)


def _panel(axes: Any, figures: Figures, base_min_p: float) -> None:
    own = [row for row in figures["points"] if row["base_min_p"] == base_min_p and row["weight"] > 0]
    numbers = list(dict.fromkeys(row["particles"] for row in own))
    counts = [row["particles"] for row in own]
    most = max((number for number in numbers if counts.count(number) >= len(LABELLED)), default=1)
    for place, particles in enumerate(numbers):
        rows = sorted((row for row in own if row["particles"] == particles), key=lambda row: row["weight"])
        label = f"{particles} particles" if particles > 1 else "plain guided decoding"
        _line(axes, rows, label, color=COLOURS[place], marker=MARKERS[place], markersize=5, linewidth=1.2)
        if particles in (numbers[0], most):
            _weights(axes, rows, COLOURS[place], outside=particles == numbers[0])
    alone = [row for row in figures["points"] if row["base_min_p"] == base_min_p and row["weight"] == 0]
    _line(axes, alone, "base alone", color="black", marker="X", linestyle="")
    for base, label, fill in ((True, "base", "white"), (False, "guided", "#E69F00")):
        best = [row for row in figures["best_of"] if row["base_min_p"] == base_min_p and (row["weight"] == 0) == base]
        weights = "" if base else ", weights " + " and ".join(f"{row['weight']:g}" for row in best)
        look = {"color": "#8a5a00", "marker": "*", "markersize": 12, "markerfacecolor": fill, "linestyle": ""}
        size = best[0]["best_of"] if best else 0
        _line(axes, best, f"best of {size}, {label}{weights}", **look)


def _line(axes: Any, rows: Sequence[dict[str, Any]], label: str, **look: Any) -> None:
    nats, about = ([row[name] for row in rows] for name in ("base_nats", "about"))
    across = [[one["value"] - one["low"] for one in nats], [one["high"] - one["value"] for one in nats]]
    up = [[100 * (one["value"] - one["low"]) for one in about], [100 * (one["high"] - one["value"]) for one in about]]
    places = [one["value"] for one in nats], [100 * one["value"] for one in about]
    axes.errorbar(*places, xerr=across, yerr=up, label=label, elinewidth=0.7, **look)


def _weights(axes: Any, rows: Sequence[dict[str, Any]], colour: str, outside: bool) -> None:
    """Below and to the right of a line's points, or else above and to the left of them."""
    shift, side = ((7, -11), "left") if outside else ((-6, 5), "right")
    for row in rows:
        if row["weight"] in LABELLED:
            place = row["base_nats"]["value"], 100 * row["about"]["value"]
            look = {"fontsize": 8, "color": colour, "ha": side, "xytext": shift, "textcoords": "offset points"}
            axes.annotate(f"w = {row['weight']:g}", place, **look)
