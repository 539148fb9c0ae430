"""Fronts and hypervolumes of a Pareto sweep, with intervals over prompts.

Every cell of a sweep (``cells.py``) has written texts for the same prompts, with the same row seeds. A cell's place is
the mean of each objective over its texts; all objectives are to be large. A cell is on the front where no other is at
least as good in every objective and better in one. The hypervolume of a family is the volume of what its cells
dominate, down to a reference point that all families share (Zitzler and Thiele 1999).

Intervals resample prompts, whole, for all cells at once, so that what prompts have in common cancels in differences.
Fronts and hypervolumes come from moocore (extra ``pareto``).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..errors import GenARMError, InvalidArgumentError
from ..preferences.statistics import PERCENTILES, Estimate
from .cells import Cell, Family

DRAWS = 1000
MARGIN = 0.1  # of each objective's range, which the reference point lies below the worst cell
FIGURES = ("kl", "kl per token", "tokens")  # what is measured of a text beside its objectives, KL in nats

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Sweep:
    """What was measured.

    values: [U, C, K + 3] of U units (prompts, or the texts of a single prompt), C cells, and K objectives followed by
        FIGURES, a mean over the texts of a unit each.
    measures: what each objective's number is, in words.
    distinct: per cell, the share of distinct pairs of words among all pairs in its texts.
    unit: what the U are.
    """

    cells: list[Cell]
    objectives: tuple[str, ...]
    measures: tuple[str, ...]
    values: Floats
    distinct: list[float]
    unit: str = "prompts"


@dataclass(frozen=True, slots=True)
class Hypervolume:
    """A family's hypervolume, and by how much the guided one is larger. Without resamples the bounds are NaN."""

    cells: int
    estimate: Estimate
    guided_minus: Estimate | None


@dataclass(frozen=True, slots=True)
class Front:
    """``estimates[c][name]`` of each cell, by objective and FIGURES; ``is_on`` [C] and ``is_on_own`` [C] say which
    cells no other dominates, of all and of their own family; ``how_often`` [C] is the share of resamples in which the
    first holds.
    """

    sweep: Sweep
    estimates: list[dict[str, Estimate]]
    is_on: Bools
    is_on_own: Bools
    how_often: Floats
    reference: tuple[float, ...]
    hypervolumes: dict[str, Hypervolume]


def families(cells: Sequence[Cell]) -> dict[str, list[int]]:
    """The cells of each family whose fronts are compared. The base and the objectives alone, which soups of one
    ingredient are too, belong to the guided and to the soups; the base to the policies."""
    mixing: dict[str, list[int]] = {}
    for place, cell in enumerate(cells):
        if cell.family == "guided":
            mixing.setdefault(cell.mixing, []).append(place)
    alone = sorted([*mixing.get("base", []), *mixing.get("single", [])])
    found: dict[str, list[int]] = {"guided": sorted([*alone, *mixing.get("mixed", [])]), "each alone": alone}
    others: tuple[tuple[Family, list[int]], ...] = (("soups", alone), ("policies", mixing.get("base", [])))
    for family, beside in others:
        own = [place for place, cell in enumerate(cells) if cell.family == family]
        if own:
            found[family] = sorted([*own, *beside])
    return found


def front(sweep: Sweep, reference: Sequence[float] | None = None, draws: int = DRAWS, seed: int = 0) -> Front:
    """Fronts, hypervolumes and intervals of a sweep.

    Args:
        reference: the point that hypervolumes reach down to, one number per objective; None: ``reference_point``'s.
        draws: resamples of the units. With a single unit there are none, and every bound is NaN.
    Raises:
        GenARMError: moocore is not installed.
        InvalidArgumentError: another number of references than of objectives.
    """
    count = len(sweep.objectives)
    means, drawn = sweep.values.mean(0), resampled(sweep.values, draws, seed)
    points, clouds = means[:, :count], drawn[:, :, :count]
    if reference is not None and len(reference) != count:
        raise InvalidArgumentError(f"the reference point has {len(reference)} numbers: give one per objective, {count}")
    low = tuple(reference_point(points) if reference is None else map(float, reference))
    groups = families(sweep.cells)
    is_own = np.zeros(len(points), dtype=bool)
    for places in groups.values():
        is_own[places] |= nondominated(points[places])
    on = [nondominated(cloud) for cloud in clouds]
    return Front(
        sweep=sweep,
        estimates=_estimates(sweep, means, drawn),
        is_on=nondominated(points),
        is_on_own=is_own,
        how_often=np.mean(on, axis=0) if on else np.full(len(points), math.nan),
        reference=low,
        hypervolumes=_hypervolumes(groups, points, clouds, low),
    )


def nondominated(points: Floats) -> Bools:
    """[N] bool: the points [N, K], all coordinates to be large, that no other dominates; equal ones do not. One with
    a coordinate that is not finite has no place."""
    finite = np.isfinite(points).all(1)
    found = np.zeros(len(points), dtype=bool)
    if finite.any():
        found[finite] = moocore().is_nondominated(points[finite], maximise=True, keep_weakly=True)
    return found


def hypervolume(points: Floats, reference: Sequence[float]) -> float:
    """The volume of all that lies between ``reference`` [K] and one of the points [N, K], all coordinates to be
    large."""
    finite = points[np.isfinite(points).all(1)]
    return float(moocore().hypervolume(finite, ref=list(reference), maximise=True)) if len(finite) else 0.0


def reference_point(points: Floats) -> list[float]:
    """The worst of every objective, less a tenth of its range, so that the ends of a front count too (Ishibuchi et al.
    2018)."""
    finite = points[np.isfinite(points).all(1)]
    if not len(finite):
        raise GenARMError("no cell of the sweep has finite scores: look at its rows")
    worst, best = finite.min(0), finite.max(0)
    return [float(value) for value in worst - MARGIN * (best - worst)]


def resampled(values: Floats, draws: int, seed: int) -> Floats:
    """Means [draws, C, D] of ``values`` [U, C, D] over units drawn anew; no draws of a single unit."""
    units = len(values)
    if units < 2:
        return np.empty((0, *values.shape[1:]))
    picks = np.random.default_rng(seed).integers(units, size=(draws, units))
    counts = np.stack([np.bincount(pick, minlength=units) for pick in picks]) / units
    with np.errstate(invalid="ignore"):  # 0 · −inf
        found: Floats = np.tensordot(counts, values, axes=1)
    return found


def interval(value: float, draws: Floats) -> Estimate:
    """A value with the percentiles of its resamples [draws], NaN where there are none, or some are not finite."""
    if not len(draws) or not np.isfinite(draws).all():
        return Estimate(value, math.nan, math.nan)
    low, high = np.percentile(draws, PERCENTILES)
    return Estimate(value, float(low), float(high))


def _estimates(sweep: Sweep, means: Floats, drawn: Floats) -> list[dict[str, Estimate]]:
    names = (*sweep.objectives, *FIGURES)
    return [
        {name: interval(float(means[cell, place]), drawn[:, cell, place]) for place, name in enumerate(names)}
        for cell in range(len(means))
    ]


def _hypervolumes(
    groups: Mapping[str, Sequence[int]], points: Floats, clouds: Floats, reference: Sequence[float]
) -> dict[str, Hypervolume]:
    values = {name: hypervolume(points[list(places)], reference) for name, places in groups.items()}
    draws = {
        name: np.array([hypervolume(cloud[list(places)], reference) for cloud in clouds])
        for name, places in groups.items()
    }
    guided, own = values["guided"], draws["guided"]
    return {
        name: Hypervolume(
            len(places),
            interval(values[name], draws[name]),
            None if name == "guided" else interval(guided - values[name], own - draws[name]),
        )
        for name, places in groups.items()
    }


def moocore() -> Any:
    """The library, imported when it is first needed. Raises GenARMError where it is not installed."""
    try:
        import moocore as found
    except ImportError:
        raise GenARMError("moocore is not installed, which computes fronts: pip install 'genarm[pareto]'") from None
    return found
