"""How far what is drawn is from the product over whole answers, in nats, in the mean over prompts.

The mean log Ẑ of N particles lies below log Z by at least KL(what N particles draw ‖ product), and exactly by it for
plain decoding, N = 1, where log Ẑ is Σ log Z_t. So the rise of the mean from 1 to N is by how much the bound falls.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from genarm.preferences.statistics import DRAWS, PERCENTILES, Estimate

Floats = NDArray[np.float64]
Evidence = Sequence[Sequence[float]]  # [prompts][systems]


def resampled(evidence: Evidence, seed: int) -> Floats:
    """[prompts, 1 + DRAWS] mean log Ẑ of each prompt: of all its systems, then of each resample of them."""
    generator, found = np.random.default_rng(seed), []
    for own in evidence:
        values = np.asarray(own, dtype=np.float64)
        picks = generator.integers(len(values), size=(DRAWS, len(values)))
        found.append(np.concatenate([[values.mean()], values[picks].mean(1)]))
    return np.stack(found)


def interval(values: Floats) -> Estimate:
    """Of a value and its resamples."""
    low, high = np.percentile(values[1:], PERCENTILES)
    return Estimate(float(values[0]), min(float(low), float(values[0])), max(float(high), float(values[0])))


def closed(plain: Evidence, particles: Evidence) -> Estimate:
    """Mean log Ẑ_N less mean Σ log Z_t, in the mean over prompts."""
    return interval((resampled(particles, 1) - resampled(plain, 0)).mean(0))


def left(log_z: Sequence[float], plain: Evidence, particles: Evidence) -> dict[str, Any]:
    """What is left of log Z at 1 and at N particles, and the share of the first that the second is.

    Args:
        log_z: [prompts] log Z, taken as it is; the intervals say nothing of its own error.
    """
    exact = np.asarray(log_z, dtype=np.float64)[:, None]
    gaps = [exact - resampled(evidence, seed) for seed, evidence in enumerate((plain, particles))]
    means = [gap.mean(0) for gap in gaps]
    return {
        "plain": interval(means[0]).as_dict(),
        "left": interval(means[1]).as_dict(),
        "share": interval(means[1] / means[0]).as_dict(),
        "by_prompt": [[round(float(gap[row, 0]), 4) for gap in gaps] for row in range(len(exact))],
    }
