"""How much of what a large reward model gains over no guidance a small one gains too, with its interval.

recovered = (score under the small RM − score without guidance) / (score under the large RM − score without guidance)

One weight does not mean the same with two reward models: the sharper one moves the base farther. So both are read off
at one KL divergence from the base, between the weights that were decoded, and at one weight only beside it. Texts that
were drawn with the same noise are resampled together, over all weights and both reward models.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from genarm.preferences.statistics import PERCENTILES, Estimate

Floats = NDArray[np.float64]
Statistic = Callable[[Floats], Floats]  # of D resamples' counts [D, N], a value each
DRAWS = 2000


@dataclass(frozen=True, slots=True)
class Curve:
    """N texts at each of W rising weights: scores and divergences log p(drawn) − log π_base, [W, N] each."""

    scores: Floats
    divergences: Floats

    def at(self, counts: Floats, base: Floats, kl: float) -> Floats:
        """[D] mean score where the mean divergence is ``kl``, in D resamples; ``counts`` [D, N], ``base`` [D]."""
        total = counts.sum(1, keepdims=True)
        scores, divergences = counts @ self.scores.T / total, counts @ self.divergences.T / total
        scores = np.column_stack([base, scores])
        divergences = np.maximum.accumulate(np.column_stack([np.zeros(len(base)), divergences]), axis=1)
        return np.array([np.interp(kl, own, score) for own, score in zip(divergences, scores, strict=True)])

    def farthest(self) -> float:
        """The largest mean divergence among the weights."""
        return float(self.divergences.mean(1).max())


def recovered(base: Floats, small: Floats, large: Floats) -> Floats:
    """(small − base) / (large − base), element by element; NaN where the large one gains nothing."""
    gained = np.asarray(large, dtype=np.float64) - base
    return np.divide(small - base, gained, out=np.full_like(gained, np.nan), where=gained > 0)


def gap_at_kl(base: Floats, small: Curve, large: Curve, kl: float, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The share recovered where both curves are ``kl`` nats from the base, with a bootstrap 95% interval over texts.

    Args:
        base: [N] scores without guidance, text i of the same noise as text i of the curves.
        kl: within what both reach.

    Raises:
        ValueError: a divergence that one of them does not reach.
    """
    reach = min(small.farthest(), large.farthest())
    if not 0 < kl <= reach:
        raise ValueError(f"a divergence of {kl:g} nats is outside of what both curves reach, 0 to {reach:g}")

    def share(counts: Floats) -> Floats:
        alone = counts @ base / counts.sum(1)
        return recovered(alone, small.at(counts, alone, kl), large.at(counts, alone, kl))

    return _interval(share, len(base), draws, seed)


def gap_at_weight(base: Floats, small: Floats, large: Floats, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """The same at one weight for both: [N] scores each."""

    def share(counts: Floats) -> Floats:
        total = counts.sum(1)
        return recovered(counts @ base / total, counts @ small / total, counts @ large / total)

    return _interval(share, len(base), draws, seed)


def mean_estimate(values: Floats, draws: int = DRAWS, seed: int = 0) -> Estimate:
    """A mean of [N] values with its bootstrap 95% interval."""
    return _interval(lambda counts: counts @ values / counts.sum(1), len(values), draws, seed)


def _interval(statistic: Statistic, count: int, draws: int, seed: int) -> Estimate:
    """The statistic of all texts and its interval, which is NaN where more draws than a tail holds are undefined."""
    value = float(statistic(np.ones((1, count)))[0])
    found = statistic(_resamples(count, draws, seed))
    if 100 * np.isnan(found).mean() > PERCENTILES[0]:
        return Estimate(value, np.nan, np.nan)
    low, high = np.nanpercentile(found, PERCENTILES)
    return Estimate(value, float(low), float(high))


@lru_cache(maxsize=4)
def _resamples(count: int, draws: int, seed: int) -> Floats:
    """[D, N] how often each resample holds each text."""
    counts = np.random.default_rng(seed).multinomial(count, np.full(count, 1 / count), size=draws)
    return counts.astype(np.float64)
