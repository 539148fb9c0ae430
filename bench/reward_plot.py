"""AR-RM and trajectory RM side by side, objective by objective, drawn from bench.reward_accuracy's results.

python -m bench.reward_plot bench/results/cpu docs/reward_accuracy.png
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from bench.reward_table import NAMES, complete_seeds, pooled, pooled_clusters
from genarm.evaluation.statistics import Estimate, share

# Okabe and Ito's palette: told apart by every kind of colour vision.
COLOURS = {"arm": "#0072B2", "trajectory-rm": "#D55E00"}
MARKERS = {"arm": "o", "trajectory-rm": "s"}


def rows(results: list[dict[str, Any]]) -> dict[str, dict[str, Estimate]]:
    """A line of the plot for every objective, and one for each suite as a whole."""
    found = {}
    for result in results:
        several = len(result["objectives"]) > 1
        parts = {f"{result['suite']}, pooled" if several else result["suite"]: result}
        if several:
            one = {name: {**result, "objectives": {name: facts}} for name, facts in result["objectives"].items()}
            parts = {**one, **parts}
        for name, part in parts.items():
            clusters = pooled_clusters(part)
            found[name] = {method: share(pooled(part, method, "right"), clusters) for method in NAMES}
    return found


def draw(results: list[dict[str, Any]], path: Path) -> None:
    """A dot and its 95% interval a method and line, and the coin's 50%."""
    lines = rows(results)
    figure = Figure(figsize=(7.5, 1.4 + 0.36 * len(lines)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for method, name in NAMES.items():
        offset = 0.13 if method == "arm" else -0.13
        values = [estimates[method] for estimates in lines.values()]
        reach = [[100 * (one.value - one.low) for one in values], [100 * (one.high - one.value) for one in values]]
        axes.errorbar(
            [100 * one.value for one in values],
            [len(lines) - place + offset for place in range(len(lines))],
            xerr=reach,
            fmt=MARKERS[method],
            color=COLOURS[method],
            capsize=2,
            markersize=5,
            label=name,
        )
    axes.axvline(50, color="#777777", linewidth=1, linestyle=":")
    axes.set_yticks([len(lines) - place for place in range(len(lines))], list(lines))
    axes.set_xlabel("test pairs ordered right, percent, with 95% intervals")
    axes.grid(axis="x", alpha=0.3)
    axes.legend(frameon=False, loc="best")
    for side in ("top", "right"):
        axes.spines[side].set_visible(False)
    figure.savefig(path)


def main() -> None:
    folder, path = (Path(argument) for argument in sys.argv[1:3])
    files = sorted(folder.glob("reward_accuracy_*.json"))
    results = [json.loads(file.read_text(encoding="utf-8")) for file in files]
    draw([result for result in results if complete_seeds(result)], path)


if __name__ == "__main__":
    main()
