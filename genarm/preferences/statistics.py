"""Shares of pairs, means, and differences of either, with 95% intervals that respect what rows have in common.

Pairs that share a prompt or a statement succeed and fail together: resampled one by one they would make an interval too
narrow. So clusters are resampled, whole, and the interval runs from the 2.5th to the 97.5th percentile of the draws.

Alone, that claims too much where few pairs disagree with the rest: of 3 clusters without a mistake every draw is the
same, and 4 pairs in 400 that all favour one side would exclude chance. So made-up observations are resampled along: two
right and two wrong for a share (Agresti and Coull 1998), one either way for a difference (Agresti and Min 2005). Each
weighs as many pairs as the design effect says one independent observation is worth here (Kish 1965). They are in the
interval only, never in the estimate.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray

DRAWS = 2000
PERCENTILES = (2.5, 97.5)
MADE_UP_SHARES = (1.0, 1.0, 0.0, 0.0)
MADE_UP_DIFFERENCES = (1.0, -1.0)
PICKS_AT_ONCE = 1 << 22  # cluster numbers held at a time, 32 MiB

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Estimate:
    """A share, a mean or a difference of two, and its 95% interval."""

    value: float
    low: float
    high: float

    def __str__(self) -> str:
        """A share in percent: ``97.7 [95.5, 99.4]``."""
        return f"{100 * self.value:.1f} [{100 * self.low:.1f}, {100 * self.high:.1f}]"

    def as_dict(self) -> dict[str, float]:
        return {name: round(number, 6) for name, number in asdict(self).items()}


def wilson(successes: int, count: int) -> Estimate:
    """A share of ``count`` independent trials with its Wilson 95% interval (Wilson 1927)."""
    if not 0 <= successes <= count or count == 0:
        raise ValueError(f"{successes} successes in {count} trials: give 0 to count of at least one trial")
    z, share = 1.959964, successes / count
    centre = (share + z * z / (2 * count)) / (1 + z * z / count)
    half = z / (1 + z * z / count) * math.sqrt(share * (1 - share) / count + z * z / (4 * count * count))
    return Estimate(share, max(0.0, centre - half), min(1.0, centre + half))


def share(
    right: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    weights: ArrayLike | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """The (weighted) share of True in ``right`` with a bootstrap 95% interval.

    Args:
        right: [N] bool, N at least 1.
        clusters: N values; what is equal is resampled together. None: every element on its own.
        weights: [N], 0 or above and not all 0; None: all 1. They stay with their elements in every draw.
        draws: resamples. seed: of the resampling, so that the same data give the same interval.

    Raises:
        ValueError: no elements, or lengths that differ.
    """
    values = np.asarray(right, dtype=bool).astype(np.float64)
    return _bootstrap(values, clusters, weights, MADE_UP_SHARES, draws, seed)


def paired_difference(
    a_right: ArrayLike,
    b_right: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Accuracy of a minus accuracy of b on the same pairs, with a bootstrap 95% interval of that difference.

    Both are resampled together, so what they have in common cancels: the interval is narrower than those of the two
    accuracies suggest, and decides whether a is better than b where it leaves 0 out.

    Args:
        a_right, b_right: [N] bool, whether a and b order pair i right.
        clusters: N values; pairs with equal ones are resampled together. None: every pair on its own.

    Raises:
        ValueError: no pairs, or lengths that differ.
    """
    a, b = np.asarray(a_right, dtype=bool), np.asarray(b_right, dtype=bool)
    if a.shape != b.shape:
        raise ValueError(f"a has {a.shape} answers and b {b.shape}: compare them on the same pairs, in one order")
    return _bootstrap(a.astype(np.float64) - b, clusters, None, MADE_UP_DIFFERENCES, draws, seed)


def mean(values: ArrayLike, clusters: Sequence[Hashable] | None = None, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The mean of ``values`` [N] with a bootstrap 95% interval; the arguments are those of ``share``.

    Values have no bounds, so no observation is made up: with a handful of clusters the interval is too narrow, and with
    a single one it is the mean itself.
    """
    return _bootstrap(np.asarray(values, dtype=np.float64), clusters, None, (), draws, seed)


def ratio(
    tops: ArrayLike,
    bottoms: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """Σ tops / Σ bottoms (both [N]) with a bootstrap 95% interval: a figure per token, say, of texts of many lengths.

    Raises:
        ValueError: no elements, lengths that differ, bottoms below 0, or all 0.
    """
    top, bottom = np.asarray(tops, dtype=np.float64), np.asarray(bottoms, dtype=np.float64)
    if top.ndim != 1 or top.shape != bottom.shape or len(top) == 0 or not ((bottom >= 0).all() and bottom.any()):
        raise ValueError(f"{list(top.shape)} tops and {list(bottom.shape)} bottoms: give one each, bottoms from 0")
    counts = cluster_counts(len(top), clusters, draws, seed)
    low, high = np.percentile((counts @ top) / (counts @ bottom), PERCENTILES)
    value = float(top.sum() / bottom.sum())
    return Estimate(value, min(float(low), value), max(float(high), value))


def cluster_counts(count: int, clusters: Sequence[Hashable] | None = None, draws: int = DRAWS, seed: int = 0) -> Floats:
    """How often each of ``count`` elements is in each resample of whole clusters: [draws, count], for a statistic that
    is no mean."""
    index = np.arange(count) if clusters is None else _numbered(clusters)
    if len(index) != count:
        raise ValueError(f"{count} values and {len(index)} clusters: give one each")
    size = int(index.max()) + 1
    rows = [np.bincount(pick, minlength=size) for block in _picks(size, draws, seed) for pick in block]
    return np.stack(rows)[:, index].astype(np.float64)


def _bootstrap(
    values: Floats,
    clusters: Sequence[Hashable] | None,
    weights: ArrayLike | None,
    made_up: Sequence[float],
    draws: int,
    seed: int,
) -> Estimate:
    """The weighted mean of ``values``, and its interval over resampled clusters and ``made_up`` observations."""
    if values.ndim != 1 or len(values) == 0:
        raise ValueError(f"there are {list(values.shape)} values: an interval takes one dimension of at least one")
    own = np.ones(len(values)) if weights is None else np.asarray(weights, dtype=np.float64)
    index = np.arange(len(values)) if clusters is None else _numbered(clusters)
    if not len(values) == len(own) == len(index):
        raise ValueError(f"{len(values)} values, {len(own)} weights and {len(index)} clusters: give one each")
    if not (own >= 0).all() or not own.any():
        raise ValueError("weights must be 0 or above, and some above 0")
    used = own > 0
    values, own, index = values[used], own[used], np.unique(index[used], return_inverse=True)[1]
    totals, sums = np.bincount(index, weights=own), np.bincount(index, weights=own * values)
    mean = float(sums.sum() / totals.sum())
    size = _worth(own * (values - mean), own, index)
    sums = np.concatenate([sums, size * np.asarray(made_up)])
    totals = np.concatenate([totals, np.full(len(made_up), size)])
    picks = _picks(len(totals), draws, seed)
    means = np.concatenate([sums[pick].sum(1) / totals[pick].sum(1) for pick in picks])
    low, high = np.percentile(means, PERCENTILES)
    return Estimate(mean, min(float(low), mean), max(float(high), mean))


def _worth(residuals: Floats, weights: Floats, index: NDArray[np.intp]) -> float:
    """The weight of one independent observation: a pair's times the design effect, at least 1."""
    alone = float((residuals**2).sum())
    if alone == 0:  # nothing shows how far a cluster's pairs go together: all the way
        return float(np.bincount(index, weights=weights).mean())
    together = float((np.bincount(index, weights=residuals) ** 2).sum())
    return float(weights.mean()) * max(1.0, together / alone)


def _numbered(clusters: Sequence[Hashable]) -> NDArray[np.intp]:
    numbers: dict[Any, int] = {}
    return np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters], dtype=np.intp)


def _picks(clusters: int, draws: int, seed: int) -> Iterator[NDArray[np.int64]]:
    """``draws`` rows of as many cluster numbers as there are clusters, in blocks that fit memory."""
    generator = np.random.default_rng(seed)
    block = max(1, PICKS_AT_ONCE // clusters)
    for start in range(0, draws, block):
        yield generator.integers(clusters, size=(min(block, draws - start), clusters))
