"""How far decoding token by token lies from the product over whole answers, and how much of it particles mend.

Plain guided decoding draws y with probability q(y) = Π_t π_base(y_t) Ππ_i(y_t)^{w_i} / Z_t. The product over whole
answers is the same without the Z_t, divided by one constant Z. So

    KL(q ‖ product) = log Z − E_q[Σ_t log Z_t].

Z is not known. N particles estimate it without bias, E[Ẑ_N] = Z, so by Jensen's inequality E[log Ẑ_N] ≤ log Z, and

    bound_N = E[log Ẑ_N] − E_q[Σ_t log Z_t] ≤ KL(q ‖ product),

which closes as N grows; Ẑ_1 is Π_t Z_t, and bound_1 is 0. The tightest bound at hand takes all systems of the largest N
as one estimate, the mean of their Ẑ. What this leaves of log Z − E[log Ẑ_N] is a lower bound, too.

Everything is computed per prompt and averaged over prompts. Intervals resample prompts, and the systems of each; a
sample's systems share their row seeds, whatever N is, and are resampled together.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..preferences.statistics import PICKS_AT_ONCE, Estimate
from .cells import Cell
from .pareto import Floats, interval

DRAWS = 1000
ENOUGH = 0.9  # of the best bound; the fewest particles that close so much are named
FLAT = 0.1  # of the best bound: what it may have grown by at last and be called flat


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured at one setting of weights.

    log_evidence: {N: [P, S] float64} log Ẑ_N of S systems for each of P prompts, in nats; 1 is among the N. seconds:
    {N: (seconds per answer with one system at a time, the same in full batches)}. tokens: {N: mean per answer}.
    """

    cell: Cell
    log_evidence: Mapping[int, Floats]
    seconds: Mapping[int, tuple[float, float]]
    tokens: Mapping[int, float]

    @property
    def particles(self) -> list[int]:
        return sorted(self.log_evidence)


@dataclass(frozen=True, slots=True)
class Closed:
    """What N particles come to, in nats, means over prompts: ``bound`` is bound_N, ``left`` is the best bound less
    bound_N, and ``share`` is bound_N as a part of the best bound, NaN where that is not above 0."""

    particles: int
    log_evidence: Estimate
    bound: Estimate
    left: Estimate
    share: float
    seconds: tuple[float, float]
    tokens: float


@dataclass(frozen=True, slots=True)
class Gap:
    """``best`` is the bound of all ``pooled`` particles together; ``by_prompt`` [P] is the same of each prompt."""

    cell: Cell
    closed: list[Closed]
    best: Estimate
    pooled: int
    by_prompt: Floats

    @property
    def last_growth(self) -> float:
        """How much the bound grew from the largest number of particles in one system to all of them, in nats."""
        return self.closed[-1].left.value


def gap(systems: Evidence, draws: int = DRAWS, seed: int = 0) -> Gap:
    """The bounds with their 95% intervals. The same seed gives the same intervals."""
    counts = systems.particles
    values = np.stack([systems.log_evidence[count] for count in counts])  # [K, P, S]
    with np.errstate(invalid="ignore"):  # −∞ less −∞, of systems that came to nothing
        found = _figures(values)
        drawn = np.concatenate(
            [_figures(values[:, rows, columns]) for rows, columns in _picks(values.shape, draws, seed)], axis=1
        )  # [K + 1, draws]
        bounds, drawn_bounds = found - found[0], drawn - drawn[0]
        left, drawn_left = found[-1] - found, drawn[-1] - drawn
        by_prompt = _pooled(values[-1]) - values[0].mean(1)
    best = interval(float(bounds[-1]), drawn_bounds[-1])
    return Gap(
        cell=systems.cell,
        closed=[
            Closed(
                particles=count,
                log_evidence=interval(float(found[place]), drawn[place]),
                bound=interval(float(bounds[place]), drawn_bounds[place]),
                left=interval(float(left[place]), drawn_left[place]),
                share=float(bounds[place]) / best.value if 0 < best.value < math.inf else math.nan,
                seconds=systems.seconds[count],
                tokens=systems.tokens[count],
            )
            for place, count in enumerate(counts)
        ],
        best=best,
        pooled=counts[-1] * values.shape[-1],
        by_prompt=by_prompt,
    )


def _figures(values: Floats) -> Floats:
    """[K, …, P, S] -> [K + 1, …]: mean log Ẑ_N of each N, then that of the last N's systems as one estimate."""
    return np.concatenate([values.mean((-2, -1)), _pooled(values[-1]).mean(-1)[None]])


def _pooled(values: Floats) -> Floats:
    """[…, S] -> […]: log of the mean of Ẑ."""
    largest = values.max(-1)
    safe = np.where(np.isfinite(largest), largest, 0.0)
    with np.errstate(divide="ignore"):  # of systems that came to nothing alone
        found: Floats = safe + np.log(np.exp(values - safe[..., None]).mean(-1))
    return found


def _picks(shape: tuple[int, ...], draws: int, seed: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Per resample, prompts [1, P, 1] and for each its samples [1, P, S], as many resamples at once as fit memory."""
    generator = np.random.default_rng(seed)
    settings, prompts, samples = shape
    block = max(1, PICKS_AT_ONCE // (settings * prompts * samples))
    for start in range(0, draws, block):
        count = min(block, draws - start)
        yield (
            generator.integers(prompts, size=(count, prompts, 1)),
            generator.integers(samples, size=(count, prompts, samples)),
        )


def in_words(found: Gap) -> str:
    """What a reader should take from it, and no more than the bound says."""
    best = found.best
    where = f"{found.cell.label}: "
    if not math.isfinite(best.value):
        return f"{where}plain decoding runs into prefixes after which nothing may follow: it is infinitely far away."
    if math.isnan(best.low) or best.low <= 0:
        return f"{where}no gap was found that noise would not explain; particles change little here, or see too little."
    text = (
        f"{where}plain decoding lies at least {nats(best.value)} from the product over whole answers (95% interval "
        f"{nats(best.low, '')} to {nats(best.high)}, as far as {found.pooled:,} particles per prompt see). "
    )
    enough = next((one for one in found.closed if one.share >= ENOUGH), found.closed[-1])
    text += f"{enough.particles} particles close {100 * enough.share:.0f}% of that bound. "
    if found.last_growth > FLAT * best.value:
        return text + (
            f"It still grew by {nats(found.last_growth)} beyond {found.closed[-1].particles} particles, so the whole "
            "gap may be much larger: take more --particles or --samples."
        )
    return text + (
        f"It grew by {nats(found.last_growth)} beyond {found.closed[-1].particles} particles, and is a lower bound all "
        "the same: what no particle found is not in it."
    )


def nats(value: float, unit: str = " nats") -> str:
    """Such as ``24 nats``: two significant digits, and whole nats from 10 on."""
    digits = 0 if abs(value) >= 9.5 else 1 if abs(value) >= 0.95 else 2
    return f"{value:.{digits}f}{unit}".replace("-", "−")


def scaled_cells(names: Sequence[str], weights: Sequence[float], factors: Sequence[float]) -> list[Cell]:
    """The reward models' weights times each factor, doubles left out."""
    found = dict.fromkeys(tuple(factor * weight for weight in weights) for factor in factors)
    return [Cell("guided", tuple(names), each) for each in found]
