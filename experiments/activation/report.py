"""The table of the runs: accuracies, and the paired difference of the activated and the ordinary AR-RM."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genarm.preferences.statistics import paired_difference, share

KINDS = (("ordinary", 8), ("activated", 8), ("activated", 16))


def complete(folder: Path) -> list[dict[str, Any]]:
    """A folder's results that have a seed with all kinds."""
    results = [json.loads(path.read_text(encoding="utf-8")) for path in sorted(folder.glob("activation_*.json"))]
    return [result for result in results if seeds_of(result)]


def seeds_of(result: dict[str, Any]) -> list[int]:
    """The seeds that every kind has a run of."""
    there = [{one["seed"] for one in runs_of(result, kind, rank)} for kind, rank in KINDS]
    return sorted(set.intersection(*there))


def runs_of(result: dict[str, Any], kind: str, rank: int) -> list[dict[str, Any]]:
    """The runs of one kind that judged the test pairs."""
    return [one for one in result["runs"] if (one["kind"], one["rank"], one["part"]) == (kind, rank, "test")]


def pooled(result: dict[str, Any], kind: str, rank: int) -> NDArray[np.bool_]:
    """Whether each test pair was ordered right, seed after seed."""
    own = {one["seed"]: one["right"] for one in runs_of(result, kind, rank)}
    return np.array([bit == "1" for seed in seeds_of(result) for bit in own[seed]])


def tables(results: list[dict[str, Any]]) -> str:
    """All results, as Markdown."""
    head = (
        "| data | start | pairs x seeds | ordinary, r = 8 | activated, r = 8 | activated, r = 16 "
        "| r = 8 − ordinary, points | r = 16 − ordinary, points |\n|" + "---|" * 8
    )
    return "\n".join([head, *(row(result) for result in results)])


def row(result: dict[str, Any]) -> str:
    """One result in a line."""
    clusters = list(result["clusters"]) * len(seeds_of(result))
    answers = {(kind, rank): pooled(result, kind, rank) for kind, rank in KINDS}
    shares = [str(share(answers[one], clusters)) for one in KINDS]
    base = answers[KINDS[0]]
    differences = [_points(paired_difference(answers[one], base, clusters)) for one in KINDS[1:]]
    size = f"{len(result['clusters'])} x {len(seeds_of(result))}"
    return f"| {' | '.join([result['suite'], result['base'], size, *shares, *differences])} |"


def _points(estimate: Any) -> str:
    return f"{100 * estimate.value:+.1f} [{100 * estimate.low:+.1f}, {100 * estimate.high:+.1f}]"
