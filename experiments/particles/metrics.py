"""What the answers of one setting come to, each figure with its 95% interval, over systems for the six prompts.

Answers that were drawn from one system succeed and fail together, so systems are resampled, whole. How many texts
differ depends on how many there are: so it is said of a fixed number of them, one per system, in the mean over all
choices of that many (rarefaction, Hurlbert 1971), with a jackknife over systems; a bootstrap's doubles would bias it.
"""

from __future__ import annotations

import itertools
import math
from collections import Counter
from collections.abc import Hashable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.particles.cells import Cell
from experiments.particles.decoding import Draws, Row
from genarm.preferences.statistics import DRAWS, PERCENTILES, Estimate, cluster_counts, mean, ratio, share

Floats = NDArray[np.float64]
AMONG = 8  # answers of one prompt, of which the distinct ones are counted; where there are fewer, none are
NORMAL = 1.959964


def figures(draws: Draws, cell: Cell, rows: Sequence[Row] | None = None) -> dict[str, Any]:
    """Of a setting's answers, or of those chosen from them."""
    rows = draws["rows"] if rows is None else rows
    systems = clusters(rows)
    return {
        "weight": cell.weight,
        "base_min_p": cell.base_min_p,
        "particles": cell.particles,
        "length_bonus": cell.length_bonus,
        "systems": len(set(systems)),
        "answers": len(rows),
        "about": share([row["about"] for row in rows], systems).as_dict(),
        "base_nats": ratio([-row["base"] for row in rows], column(rows, "tokens"), systems).as_dict(),
        "tokens": mean(column(rows, "tokens"), systems).as_dict(),
        "ended": round(float(np.mean([row["ended"] for row in rows])), 4),
        "distinct_texts": _as_dict(distinct(rows, lambda text: [text.strip()], AMONG)),
        "distinct_bigrams": _as_dict(distinct(rows, bigrams, AMONG)),
        "seconds": round(draws["seconds"] / len(set(systems)), 4),
    }


def _as_dict(found: Estimate | None) -> dict[str, float] | None:
    return None if found is None else found.as_dict()


def column(rows: Sequence[Row], name: str) -> Floats:
    return np.array([row[name] for row in rows], dtype=np.float64)


def clusters(rows: Sequence[Row]) -> list[Hashable]:
    return [(row["prompt"], row["system"]) for row in rows]


def bigrams(text: str) -> list[tuple[str, str]]:
    """Pairs of words in a row, words being what white space separates."""
    words = text.split()
    return list(itertools.pairwise(words))


def distinct_share(items: Sequence[Sequence[Hashable]], among: int) -> float:
    """Distinct items over all items that ``among`` of the answers are expected to have, whichever they are.

    Args:
        items: per answer, what it consists of: its text alone, or its pairs of words.
        among: at most ``len(items)``.

    Returns:
        NaN where no answer has an item.
    """
    count, total = len(items), sum(len(own) for own in items)
    having = Counter(item for own in items for item in set(own))
    choices = math.comb(count, among)
    seen = sum(1 - math.comb(count - answers, among) / choices for answers in having.values())
    return seen / (total * among / count) if total else math.nan


def distinct(rows: Sequence[Row], parts: Any, among: int) -> Estimate | None:
    """``distinct_share`` of each prompt's answers, the first of every system, in the mean over prompts.

    The interval is a jackknife's over systems. Where all differ it has no width. None where a prompt has fewer systems
    than ``among``.
    """
    values, variances = [], []
    for prompt in dict.fromkeys(row["prompt"] for row in rows):
        first = {row["system"]: row["text"] for row in reversed(rows) if row["prompt"] == prompt}
        items = [parts(text) for text in first.values()]
        if len(items) < among:
            return None
        values.append(distinct_share(items, among))
        variances.append(_jackknife(items, min(among, len(items) - 1)))
    value, half = float(np.nanmean(values)), NORMAL * math.sqrt(np.nansum(variances)) / len(values)
    return Estimate(value, max(0.0, value - half), min(1.0, value + half))


def _jackknife(items: Sequence[Sequence[Hashable]], among: int) -> float:
    """The variance of ``distinct_share``, from leaving one answer out in turns; 0 of fewer than two answers."""
    if among < 1:
        return 0.0
    left = [distinct_share([*items[:place], *items[place + 1 :]], among) for place in range(len(items))]
    return float(np.var(left) * (len(left) - 1))


def difference(a: Sequence[Row], b: Sequence[Row], top: str, bottom: str | None = None) -> Estimate:
    """Mean of ``top`` (or Σ top / Σ bottom) over answers a, less that over answers b, systems resampled in both."""
    found = [_resampled(rows, top, bottom, seed) for seed, rows in enumerate((a, b))]
    low, high = np.percentile(found[0][1] - found[1][1], PERCENTILES)
    return Estimate(found[0][0] - found[1][0], float(low), float(high))


def _resampled(rows: Sequence[Row], top: str, bottom: str | None, seed: int) -> tuple[float, Floats]:
    tops, bottoms = column(rows, top), np.ones(len(rows)) if bottom is None else column(rows, bottom)
    counts = cluster_counts(len(rows), clusters(rows), DRAWS, seed)
    return float(tops.sum() / bottoms.sum()), (counts @ tops) / (counts @ bottoms)
