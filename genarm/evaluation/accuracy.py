"""How often a scorer orders preference pairs right, and what length has to do with it.

Buckets hold pairs whose lengths have like ratios, weights take length's help away, and rules that only look at lengths
are the baselines.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..preferences.encoding import EncodedPair
from ..preferences.statistics import Estimate, share

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
        raise ValueError(f"{len(scores)} scores, {len(lengths)} lengths, {len(clusters)} clusters: give one per pair")
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


Lengths = NDArray[np.int64]  # [N, 2], chosen and rejected

# Ratios at which one bucket ends and the next begins; the log ratios are symmetric around 0.
EDGES = (1 / 2, 1 / 1.25, 1.25, 2.0)
BUCKETS = (
    "rejected over 2 times as long",
    "rejected 1.25 to 2 times as long",
    "within 1.25 times",
    "chosen 1.25 to 2 times as long",
    "chosen over 2 times as long",
)
# The same in two short lines, for heads of columns: the longer response, and how much longer it is.
BUCKET_HEADS = ("rejected\n> 2×", "rejected\n1.25–2×", "within\n1.25×", "chosen\n1.25–2×", "chosen\n> 2×")


@dataclass(frozen=True, slots=True)
class LengthRule:
    """Accuracy of "the longer response wins" or "the shorter one does" over ``pairs`` pairs of unequal length.

    ``estimate`` is None where every pair is of equal length; ``equal`` counts those, which are left out.
    """

    name: str
    pairs: int
    equal: int
    estimate: Estimate | None


def response_lengths(pairs: Sequence[EncodedPair]) -> Lengths:
    """[N, 2] tokens of the chosen and of the rejected response."""
    found = [(len(pair["chosen_ids"]), len(pair["rejected_ids"])) for pair in pairs]
    return np.array(found, dtype=np.int64).reshape(-1, 2)


def bucket_numbers(lengths: Lengths) -> NDArray[np.intp]:
    """[N] number of each pair's bucket in BUCKETS, by the log of its length ratio; an edge itself is the middle's."""
    ratios = np.log(lengths[:, 0]) - np.log(lengths[:, 1])
    below, above = np.log(EDGES[:2]), np.log(EDGES[2:])
    slack = 1e-12  # log 5 − log 4 is not log 1.25 to the last bit
    numbers = np.searchsorted(below, ratios + slack, side="right") + np.searchsorted(above, ratios - slack, side="left")
    return numbers.astype(np.intp)


def balancing_weights(lengths: Lengths) -> Floats:
    """[N] weights under which the longer response is the chosen one in half of the pairs, among pairs of like ratio.

    Pairs are weighed against those of the mirrored bucket (in the middle one: against the other side of equal
    length), so no rule that looks at length alone is right more than half the time. 0 where there is no such pair.
    """
    number = bucket_numbers(lengths)
    distance = np.abs(number - len(BUCKETS) // 2)
    side = np.sign(lengths[:, 0] - lengths[:, 1])
    weights = np.ones(len(lengths))
    for ring in range(len(BUCKETS) // 2 + 1):
        longer, shorter = ((distance == ring) & (side == sign) for sign in (1, -1))
        counts = longer.sum(), shorter.sum()
        for own, count in zip((longer, shorter), counts, strict=True):
            weights[own] = sum(counts) / (2 * count) if min(counts) else 0.0
    return weights


def length_rules(lengths: Lengths, clusters: Sequence[Hashable]) -> list[LengthRule]:
    """The longer-wins and the shorter-wins baseline."""
    unequal = np.flatnonzero(lengths[:, 0] != lengths[:, 1]).tolist()
    longer = (lengths[:, 0] > lengths[:, 1])[unequal]
    names = [clusters[row] for row in unequal]
    return [
        LengthRule(name, len(unequal), len(lengths) - len(unequal), share(right, names) if len(unequal) else None)
        for name, right in (("longer wins", longer), ("shorter wins", ~longer))
    ]
