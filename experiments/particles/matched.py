"""Would a larger weight have done as well? Plain decoding read off where it is judged on topic as often as particles.

Between the weights that were decoded, figures run straight over the share judged on topic.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from experiments.particles.decoding import Row
from experiments.particles.metrics import clusters, column
from genarm.preferences.statistics import DRAWS, PERCENTILES, Estimate, cluster_counts

Floats = NDArray[np.float64]
Sums = dict[str, Floats]
COLUMNS = ("about", "base", "tokens")


def sums(rows: Sequence[Row], seed: int) -> Sums:
    """[1 + DRAWS] of each column's sum over answers, and ``count``: of the answers, then of resampled systems."""
    counts = np.vstack([np.ones(len(rows)), cluster_counts(len(rows), clusters(rows), DRAWS, seed)])
    return {"count": counts.sum(1), **{name: counts @ column(rows, name) for name in COLUMNS}}


def at_share(shares: Floats, values: Floats, wanted: Floats) -> Floats:
    """[D] values where the shares come to what is wanted; NaN outside of what they reach.

    Args:
        shares, values: [W, D] by rising weight. wanted: [D]. A share below one of a smaller weight counts as that one.
    """
    rising = np.maximum.accumulate(shares, axis=0)
    found = [
        np.interp(want, own, value) if own[0] <= want <= own[-1] else np.nan
        for want, own, value in zip(wanted, rising.T, values.T, strict=True)
    ]
    return np.array(found)


def at_equal_share(plain: Sequence[tuple[float, Sums]], particles: Sums) -> dict[str, Any] | None:
    """Plain decoding where it is judged on topic as often as ``particles``, and theirs less its base nats per token.

    Args:
        plain: weights that rise, and what ``sums`` says of their answers.

    Returns:
        ``weight``, ``base_nats`` and ``tokens`` of plain decoding there, and ``nats_less``; None where plain decoding
        does not reach that share.
    """
    sums_by_weight = [own for _, own in plain]
    shares = np.stack([own["about"] / own["count"] for own in sums_by_weight])
    wanted = particles["about"] / particles["count"]

    def read(values: Sequence[Floats]) -> Floats:
        return at_share(shares, np.stack(values), wanted)

    nats = read([-own["base"] / own["tokens"] for own in sums_by_weight])
    if np.isnan(nats[0]):
        return None
    tokens = read([own["tokens"] / own["count"] for own in sums_by_weight])
    weights = read([np.full_like(wanted, weight) for weight, _ in plain])
    return {
        "weight": round(float(weights[0]), 3),
        "base_nats": _estimate(nats).as_dict(),
        "tokens": round(float(tokens[0]), 2),
        "nats_less": _estimate(-particles["base"] / particles["tokens"] - nats).as_dict(),
    }


def _estimate(values: Floats) -> Estimate:
    """Resamples in which plain decoding does not reach the share are left out."""
    low, high = np.nanpercentile(values[1:], PERCENTILES)
    return Estimate(float(values[0]), min(float(low), float(values[0])), max(float(high), float(values[0])))
