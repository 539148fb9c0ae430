"""Win rates, and what they would be between answers of one length.

As in length-controlled AlpacaEval (Dubois et al., "Length-Controlled AlpacaEval", COLM 2024) the preference y for a
method over the reference is regressed on the difference of lengths,

    P(y = 1) = σ( θ + φ · tanh(Δ / s) ),   Δ the method's length minus the reference's, s the standard deviation of Δ,

and the length-controlled win rate is σ(θ): the prediction with the length term taken out. AlpacaEval has a third term,
how hard an instruction is, which it estimates from all models of its leaderboard; there is none here.

One made-up win and one made-up loss of half a weight each at Δ = 0, and a penalty of φ²/2, keep the fit finite where a
method always wins or only ever with the longer answer.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence

import numpy as np
from numpy.typing import ArrayLike, NDArray

from ..preferences.statistics import PERCENTILES, Estimate, cluster_counts

DRAWS = 1000
MOST_STEPS = 60
Floats = NDArray[np.float64]


def length_controlled(
    preferences: ArrayLike,
    differences: ArrayLike,
    clusters: Sequence[Hashable] | None = None,
    draws: int = DRAWS,
    seed: int = 0,
) -> Estimate:
    """The length-controlled win rate with a bootstrap 95% interval over clusters.

    Args:
        preferences: [N] in [0, 1]: 1 where the method's answer was preferred, 0 where the reference's, ½ for a tie.
        differences: [N], the length of the method's answer minus that of the reference's, in any one unit.
        clusters: N values; what is equal is resampled together. None: every element on its own.

    Raises:
        ValueError: no elements, lengths that differ, preferences outside of [0, 1].
    """
    wins, lengths = np.asarray(preferences, dtype=np.float64), np.asarray(differences, dtype=np.float64)
    if wins.ndim != 1 or wins.shape != lengths.shape or len(wins) == 0:
        raise ValueError(f"preferences have the shape {list(wins.shape)}, differences {list(lengths.shape)}: give [N]")
    if not ((wins >= 0) & (wins <= 1)).all():
        raise ValueError("preferences must lie between 0 and 1")
    spread = float(lengths.std())
    terms = np.tanh(lengths / spread) if spread > 0 else np.zeros_like(lengths)
    value = float(_rates(wins, terms, np.ones((1, len(wins))))[0])
    rates = _rates(wins, terms, cluster_counts(len(wins), clusters, draws, seed))
    low, high = np.percentile(rates, PERCENTILES)
    return Estimate(value, min(float(low), value), max(float(high), value))


def _rates(wins: Floats, terms: Floats, weights: Floats) -> Floats:
    """σ(θ) of the weighted fit of each row of ``weights`` [D, N], by Newton's method."""
    theta, phi = np.zeros(len(weights)), np.zeros(len(weights))
    for _ in range(MOST_STEPS):
        chance = _sigmoid(theta[:, None] + phi[:, None] * terms)
        alone = _sigmoid(theta)
        excess, curve = weights * (chance - wins), weights * chance * (1 - chance)
        slope = np.stack([excess.sum(1) + alone - 0.5, (excess * terms).sum(1) + phi])
        first, cross = curve.sum(1) + alone * (1 - alone), (curve * terms).sum(1)
        second = (curve * terms**2).sum(1) + 1.0
        determinant = first * second - cross**2
        steps = np.stack([second * slope[0] - cross * slope[1], first * slope[1] - cross * slope[0]]) / determinant
        steps = np.clip(steps, -1.0, 1.0)  # far from the optimum a whole step overshoots
        theta, phi = theta - steps[0], phi - steps[1]
        if np.abs(steps).max() < 1e-10:
            break
    return _sigmoid(theta)


def _sigmoid(values: Floats) -> Floats:
    found: Floats = 0.5 * (1 + np.tanh(values / 2))
    return found
