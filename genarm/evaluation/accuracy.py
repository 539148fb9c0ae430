"""How often a scorer orders preference pairs right, and what length has to do with it."""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from .lengths import BUCKETS, Lengths, balancing_weights, bucket_numbers
from .statistics import Estimate, share

Floats = NDArray[np.float64]
Bools = NDArray[np.bool_]


@dataclass(frozen=True, slots=True)
class Part:
    """Accuracy on some of the pairs: a length bucket, or one value of a column. None where there are no pairs."""

    name: str
    pairs: int
    estimate: Estimate | None


@dataclass(frozen=True, slots=True)
class Accuracy:
    """What the scores of N pairs say.

    estimate: share of pairs whose chosen response has strictly the larger score.
    ties: pairs with two equal scores. undefined: pairs with a NaN. Both count as wrong.
    balanced: the share with weights that take away what length alone could win (`balancing_weights`); None where no
        two pairs balance each other.
    picks_longer: share of the pairs of unequal length in which the longer response has the larger score; None where
        all are of equal length.
    buckets: the share by ratio of lengths. parts: by value of a column.
    """

    pairs: int
    ties: int
    undefined: int
    estimate: Estimate
    balanced: Estimate | None
    picks_longer: Estimate | None
    buckets: tuple[Part, ...]
    parts: tuple[Part, ...]


def ordered_right(scores: Floats) -> Bools:
    """[N] whether the chosen response's score is strictly larger, of scores [N, 2]; a tie or a NaN is wrong."""
    right: Bools = scores[:, 0] > scores[:, 1]
    return right


def accuracy(
    scores: Floats, lengths: Lengths, clusters: Sequence[Hashable], values: Sequence[str] | None = None
) -> Accuracy:
    """The accuracy of scores on N pairs, with 95% intervals over resampled clusters.

    Args:
        scores: [N, 2], N at least 1; column 0 is the chosen response's score, column 1 the rejected one's.
        lengths: [N, 2] int, response tokens.
        clusters: N values; pairs with equal ones are resampled together.
        values: N values of a column to split by, None for no split.

    Raises:
        ValueError: no pairs, or lengths that differ.
    """
    if not len(scores) == len(lengths) == len(clusters):
        raise ValueError(f"{len(scores)} scores, {len(lengths)} lengths, {len(clusters)} clusters: give one a pair")
    right, weights = ordered_right(scores), balancing_weights(lengths)
    longer = lengths[:, 0] > lengths[:, 1]
    unequal = lengths[:, 0] != lengths[:, 1]
    picked = np.where(longer, right, scores[:, 1] > scores[:, 0])
    return Accuracy(
        pairs=len(scores),
        ties=int((scores[:, 0] == scores[:, 1]).sum()),
        undefined=int(np.isnan(scores).any(axis=1).sum()),
        estimate=share(right, clusters),
        balanced=share(right, clusters, weights) if weights.any() else None,
        picks_longer=_part("", picked, clusters, unequal).estimate,
        buckets=_split(right, clusters, bucket_numbers(lengths), BUCKETS),
        parts=() if values is None else _split_by(right, clusters, values),
    )


def _split(
    right: Bools, clusters: Sequence[Hashable], numbers: NDArray[np.intp], names: Sequence[str]
) -> tuple[Part, ...]:
    return tuple(_part(name, right, clusters, numbers == number) for number, name in enumerate(names))


def _split_by(right: Bools, clusters: Sequence[Hashable], values: Sequence[str]) -> tuple[Part, ...]:
    names, numbers = np.unique(np.array(values, dtype=str), return_inverse=True)
    return _split(right, clusters, numbers, [str(name) for name in names])


def _part(name: str, right: Bools, clusters: Sequence[Hashable], chosen: Bools) -> Part:
    rows = np.flatnonzero(chosen).tolist()
    found = share(right[rows], [clusters[row] for row in rows]) if len(rows) else None
    return Part(name, len(rows), found)
