"""The picture of a gap: how much nearer N particles come to the product over whole answers, one line per weights."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .gap import Gap
from .plots import COLOURS, MARKERS, new_figure, open_frame

SPREAD = 1.04  # between the bars of neighbouring lines, as a factor of N


def draw(gaps: Sequence[Gap], prompts: int, samples: int, path: Path) -> None:
    """Write the picture to ``path`` (by its ending: png, svg, pdf).

    Raises:
        GenARMError: matplotlib is not installed.
    """
    figure = new_figure(7.2, 4.8)
    axes = figure.add_subplot()
    counts = [one.particles for one in gaps[0].closed]
    for number, found in enumerate(gaps):
        _line(axes, found, number, SPREAD ** (number - (len(gaps) - 1) / 2))
    ends = [*counts, gaps[0].pooled]
    axes.set_xscale("log", base=2)
    axes.set_xticks(ends, [*map(str, counts), f"all\n{gaps[0].pooled:,}"])
    axes.minorticks_off()
    axes.set_xlim(ends[0] / 1.3, ends[-1] * 1.3)
    axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    axes.set_xlabel("particles N")
    axes.set_ylabel("nearer than plain decoding by, nats\nE[log Ẑ_N] − E[Σ log Z_t]")
    axes.set_title("Plain decoding is at least so far from the product over whole answers", loc="left", fontsize=10)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False, fontsize=8, loc="best", title="weights", title_fontsize=8)
    note = f"bars: 95% intervals; {prompts} prompt{'s' * (prompts > 1)}, {samples} samples each. "
    figure.supxlabel(f"{note}all: the samples of the largest N as one estimate", x=0.01, ha="left", fontsize=8)
    open_frame(axes)
    figure.savefig(path)


def _line(axes: Any, found: Gap, number: int, shift: float) -> None:
    """A solid line over N, dashed on to the bound of all particles, which is hollow."""
    look = {"color": COLOURS[number % len(COLOURS)], "marker": MARKERS[number % len(MARKERS)]}
    bars = {"capsize": 3, "elinewidth": 0.8}
    places = [one.particles * shift for one in found.closed]
    bounds = [one.bound for one in found.closed]
    values = [bound.value for bound in bounds]
    spread = [[bound.value - bound.low for bound in bounds], [bound.high - bound.value for bound in bounds]]
    axes.errorbar(places, values, spread, label=found.cell.label, **look, **bars)
    best, end = found.best, found.pooled * shift
    axes.plot([places[-1], end], [values[-1], best.value], linestyle="--", color=look["color"], linewidth=1)
    edges = [[max(0.0, best.value - best.low)], [max(0.0, best.high - best.value)]]
    axes.errorbar([end], [best.value], edges, linestyle="", markerfacecolor="white", **look, **bars)
