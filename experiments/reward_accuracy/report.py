"""Tables and a picture of the runs: accuracy, the paired difference of the methods, the price of training.

A pair's answer under each seed is one observation; pairs that share a prompt (without a prompt: a chosen text) are
resampled together, over all seeds, so that three seeds narrow the interval by what they really add.
"""

from __future__ import annotations

import json
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genarm.preferences.statistics import Estimate, paired_difference, share

Runs = dict[tuple[str, str, int], dict[str, Any]]
Bools = NDArray[np.bool_]
NAMES = {"arm": "AR-RM", "trajectory-rm": "trajectory RM"}
# Okabe and Ito's palette: told apart by every kind of colour vision.
COLOURS = {"arm": "#0072B2", "trajectory-rm": "#D55E00"}
MARKERS = {"arm": "o", "trajectory-rm": "s"}


def complete(folder: Path) -> list[dict[str, Any]]:
    """A folder's suites that have a complete seed."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("reward_accuracy_*.json"))]
    return [result for result in results if complete_seeds(result)]


def tables(results: list[dict[str, Any]]) -> str:
    """All suites, as Markdown."""
    rows = [summary_row(result) for result in results]
    head = (
        "| data | pairs x seeds | AR-RM | AR-RM, mean per token | trajectory RM | AR-RM − trajectory RM, points "
        "| longer wins | shorter wins | training time, AR-RM / trajectory RM |\n|" + "---|" * 9
    )
    parts = ["\n".join([head, *rows])]
    parts += [by_objective(result) for result in results if len(result["objectives"]) > 1]
    return "\n\n".join(parts)


def summary_row(result: dict[str, Any]) -> str:
    """A suite in one line, pooled over its objectives and seeds."""
    seeds, clusters = complete_seeds(result), pooled_clusters(result)
    arm, mean, trajectory = (pooled(result, *what) for what in COLUMNS)
    difference = paired_difference(arm, trajectory, clusters)
    chosen, rejected = lengths(result)
    apart = chosen != rejected
    own = [cluster for cluster, kept in zip(clusters, np.tile(apart, len(seeds)), strict=True) if kept]
    longer = np.tile(chosen > rejected, len(seeds))[np.tile(apart, len(seeds))]
    cells = [
        result["suite"],
        f"{len(chosen)} x {len(seeds)}",
        *(str(share(right, clusters)) for right in (arm, mean, trajectory)),
        signed(difference),
        str(share(longer, own)),
        str(share(~longer, own)),
        time_ratio(result),
    ]
    return f"| {' | '.join(cells)} |"


COLUMNS = (("arm", "right"), ("arm", "right_by_mean"), ("trajectory-rm", "right"))


def by_objective(result: dict[str, Any]) -> str:
    """Accuracy of both methods on each objective, over the seeds."""
    lines = [
        f"{result['suite']}, by objective:",
        "",
        "| objective | pairs | AR-RM | trajectory RM | difference |",
        "|---|---|---|---|---|",
    ]
    for objective, facts in result["objectives"].items():
        one = {**result, "objectives": {objective: facts}}
        clusters = pooled_clusters(one)
        arm, trajectory = pooled(one, "arm", "right"), pooled(one, "trajectory-rm", "right")
        difference = paired_difference(arm, trajectory, clusters)
        cells = (objective, str(facts["pairs"]), str(share(arm, clusters)), str(share(trajectory, clusters)))
        lines.append(f"| {' | '.join(cells)} | {signed(difference)} |")
    return "\n".join(lines)


def complete_seeds(result: dict[str, Any]) -> list[int]:
    """Seeds for which every objective has both methods."""
    done = {(run["method"], run["objective"], run["seed"]) for run in result["runs"]}
    return [
        seed
        for seed in sorted({run["seed"] for run in result["runs"]})
        if all((method, objective, seed) in done for method in NAMES for objective in result["objectives"])
    ]


def pooled(result: dict[str, Any], method: str, field: str) -> Bools:
    """[seeds x pairs] bool, seed by seed and in each objective by objective."""
    runs: Runs = {(run["method"], run["objective"], run["seed"]): run for run in result["runs"]}
    bits = "".join(
        runs[method, objective, seed][field] for seed in complete_seeds(result) for objective in result["objectives"]
    )
    return np.array([bit == "1" for bit in bits])


def pooled_clusters(result: dict[str, Any]) -> list[tuple[str, int]]:
    """The cluster of every element of `pooled`: a prompt's own, whatever the seed."""
    one = [(objective, number) for objective, facts in result["objectives"].items() for number in facts["clusters"]]
    return one * len(complete_seeds(result))


def lengths(result: dict[str, Any]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    chosen, rejected = (
        np.concatenate([facts[f"{side}_tokens"] for facts in result["objectives"].values()])
        for side in ("chosen", "rejected")
    )
    return chosen, rejected


def time_ratio(result: dict[str, Any]) -> str:
    """Median over runs that took turns of AR-RM seconds over trajectory-RM seconds, with quartiles."""
    seconds = {(run["objective"], run["seed"], run["method"]): run["train_seconds"] for run in result["runs"]}
    ratios = [
        seconds[objective, seed, "arm"] / seconds[objective, seed, "trajectory-rm"]
        for seed in complete_seeds(result)
        for objective in result["objectives"]
    ]
    low, high = np.percentile(ratios, [25, 75])
    return f"{median(ratios):.2f} ({low:.2f}–{high:.2f})"


def signed(difference: Estimate) -> str:
    return f"{100 * difference.value:+.1f} [{100 * difference.low:+.1f}, {100 * difference.high:+.1f}]"


def estimates(results: list[dict[str, Any]]) -> dict[str, dict[str, Estimate]]:
    """A line of the picture for every objective, and one for each suite as a whole."""
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
    """A dot with its 95% interval per method and line, and the coin's 50%."""
    from matplotlib.figure import Figure

    lines = estimates(results)
    figure = Figure(figsize=(7.5, 1.4 + 0.36 * len(lines)), dpi=150, layout="constrained")
    axes = figure.add_subplot()
    for method, name in NAMES.items():
        offset = 0.13 if method == "arm" else -0.13
        values = [methods[method] for methods in lines.values()]
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
