"""The tables of bench.reward_accuracy: accuracy, the paired difference of the methods, the price of training.

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

from genarm.evaluation.statistics import Estimate, paired_difference, share

Runs = dict[tuple[str, str, int], dict[str, Any]]
Bools = NDArray[np.bool_]
NAMES = {"arm": "AR-RM", "trajectory-rm": "trajectory RM"}


def tables(folder: Path) -> str:
    """All suites of a folder, as Markdown."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("reward_accuracy_*.json"))]
    results = [result for result in results if complete_seeds(result)]
    rows = [summary_row(result) for result in results]
    head = (
        "| data | pairs x seeds | AR-RM | AR-RM, mean a token | trajectory RM | AR-RM − trajectory RM, points "
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
