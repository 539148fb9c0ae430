"""The picture of a Pareto sweep: one panel for each pair of objectives, cells coloured by their KL to the base."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from .pareto import Bools, Floats, Front, families, nondominated
from .plots import new_figure, open_frame

# family -> its marker, and the stroke and colour of its front
LOOKS = {
    "guided": ("o", "-", "#0072B2"),
    "soups": ("^", "--", "#D55E00"),
    "policies": ("D", "-.", "#009E73"),
    "each alone": ("s", ":", "#666666"),
}
BASE = "*"
COLUMNS = 3
LABEL_ROOM = np.array([0.12, 0.04])  # of the width and the height, which a label needs for itself


def draw(front: Front, path: Path) -> None:
    """Write the picture to ``path`` (by its ending: png, svg, pdf).

    Raises:
        GenARMError: matplotlib is not installed.
    """
    pairs = list(itertools.combinations(range(len(front.sweep.objectives)), 2))
    columns = min(COLUMNS, len(pairs))
    rows = math.ceil(len(pairs) / columns)
    figure = new_figure(7.2 if columns == 1 else 5.2 * columns, 5.4 if columns == 1 else 4.6 * rows)
    grid = figure.subplots(rows, columns, squeeze=False).flatten()
    shades = None
    for axes, pair in zip(grid, pairs, strict=False):
        shades = _panel(axes, front, pair, labels=len(pairs) == 1)
    for axes in grid[len(pairs) :]:
        axes.set_visible(False)
    figure.colorbar(shades, ax=list(grid[: len(pairs)]), label="KL to the base, nats per text", shrink=0.8)
    handles, names = grid[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=5, frameon=False, fontsize=8)
    sweep = front.sweep
    bars = f"bars: 95% intervals over {len(sweep.values)} {sweep.unit}; " if len(sweep.values) > 1 else ""
    figure.suptitle(f"{bars}black edge: on the front of all cells", x=0.01, ha="left", fontsize=8)
    figure.savefig(path)


def _panel(axes: Any, front: Front, pair: tuple[int, int], labels: bool) -> Any:
    """Two objectives: every cell with its intervals, and the front of each family among its cells here."""
    sweep = front.sweep
    names = [sweep.objectives[place] for place in pair]
    points = np.array([[found[name].value for name in names] for found in front.estimates])
    kls = np.array([found["kl"].value for found in front.estimates])
    _bars(axes, front, names, points)
    for family, places in families(sweep.cells).items():
        _, stroke, colour = LOOKS[family]
        own = points[places]
        line = _staircase(own[nondominated(own)])
        axes.plot(*line.T, linestyle=stroke, color=colour, linewidth=1.3, zorder=2, label=f"front: {family}")
    shades = None
    limits = {"vmin": float(np.nanmin(kls)), "vmax": float(np.nanmax(kls)), "cmap": "cividis_r"}
    for name, marker, places in _groups(front):
        edges = ["black" if front.is_on[place] else "#bbbbbb" for place in places]
        size = 130 if marker == BASE else 42
        shades = axes.scatter(
            *points[places].T, c=kls[places], marker=marker, s=size, edgecolors=edges, zorder=3, label=name, **limits
        )
    if labels:
        _name_cells(axes, front, points)
    for axis, place, name in zip((axes.set_xlabel, axes.set_ylabel), pair, names, strict=True):
        axis(f"{name}: {sweep.measures[place]}")
    axes.grid(alpha=0.3)
    open_frame(axes)
    return shades


def _groups(front: Front) -> list[tuple[str, str, list[int]]]:
    """(name, marker, cells) of what is drawn alike."""
    found: dict[tuple[str, str], list[int]] = {}
    for place, cell in enumerate(front.sweep.cells):
        if cell.family == "guided":
            name = {"base": "base", "single": "each alone", "mixed": "guided"}[cell.mixing]
            key = (name, BASE if name == "base" else LOOKS[name][0])
        else:
            key = (cell.family, LOOKS[cell.family][0])
        found.setdefault(key, []).append(place)
    return [(*key, places) for key, places in found.items()]


def _bars(axes: Any, front: Front, names: Sequence[str], points: Floats) -> None:
    if len(front.sweep.values) < 2:
        return
    bounds = np.array([[(found[name].low, found[name].high) for name in names] for found in front.estimates])
    spread = np.stack([points - bounds[:, :, 0], bounds[:, :, 1] - points]).clip(min=0)  # [2, C, 2]
    axes.errorbar(
        *points.T, xerr=spread[:, :, 0], yerr=spread[:, :, 1], linestyle="", ecolor="#dddddd", elinewidth=0.6, zorder=1
    )


def _staircase(points: Floats) -> Floats:
    """The corners of what a front in two objectives dominates, from its upper left to its lower right."""
    ordered = points[np.argsort(points[:, 0], kind="stable")]
    corners = [ordered[:1]]
    for one, other in itertools.pairwise(ordered):
        corners.append(np.array([[one[0], other[1]], other]))
    return np.concatenate(corners)


def _name_cells(axes: Any, front: Front, points: Floats) -> None:
    """The weights beside the cells of the front, but where labels would lie over one another."""
    on: Bools = front.is_on
    room = LABEL_ROOM * (points.max(0) - points.min(0))
    named: list[Floats] = []
    for place in np.flatnonzero(on):
        if any((np.abs(points[place] - other) < room).all() for other in named):
            continue
        named.append(points[place])
        cell = front.sweep.cells[place]
        text = ", ".join(f"{weight:.3g}" for weight in cell.weights)
        axes.annotate(text, points[place], xytext=(5, 4), textcoords="offset points", fontsize=7)
