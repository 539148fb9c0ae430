"""Plots. matplotlib is an extra: ``pip install genarm[plots]``."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import GenARMError


def mean_and_interval(values: Sequence[float]) -> tuple[float, float]:
    """The mean, and the half width of its 95% interval (normal approximation; 0 for fewer than two values)."""
    count = len(values)
    mean = sum(values) / count
    if count < 2:
        return mean, 0.0
    variance = sum((value - mean) ** 2 for value in values) / (count - 1)
    return mean, 1.96 * math.sqrt(variance / count)


def new_figure(width: float, height: float) -> Any:
    """An empty figure of so many inches. Raises GenARMError where matplotlib is not installed."""
    try:
        from matplotlib.figure import Figure
    except ImportError:
        raise GenARMError("matplotlib is not installed, so nothing was plotted: pip install 'genarm[plots]'") from None
    return Figure(figsize=(width, height), dpi=150, layout="constrained")


def open_frame(axes: Any) -> None:
    """Axes without lines above and to the right."""
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)


def reward_against_weight(
    curves: Mapping[str, Mapping[float, Sequence[float]]], path: Path, ylabel: str, title: str
) -> None:
    """Draw mean reward against guidance weight, one line a reward model, with 95% intervals, as a PNG at ``path``.

    ``curves`` maps a name to {weight: the rewards of the texts generated at that weight}.
    """
    figure = new_figure(7.5, 4.5)
    axes = figure.add_subplot()
    for name, curve in curves.items():
        weights = sorted(curve)
        points = [mean_and_interval(curve[weight]) for weight in weights]
        axes.errorbar(weights, [p[0] for p in points], [p[1] for p in points], marker="o", capsize=3, label=name)
    axes.set_xlabel("guidance weight")
    axes.set_ylabel(ylabel)
    axes.set_title(title)
    axes.grid(alpha=0.3)
    axes.legend(frameon=False)
    open_frame(axes)
    figure.savefig(path)
