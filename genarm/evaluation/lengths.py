"""What length alone does: buckets of pairs with like lengths, weights that take length's help away, baselines.

Lengths are response tokens, the end-of-sequence token included. The ratio is chosen over rejected.
"""

from __future__ import annotations

from collections.abc import Hashable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ..preferences.encoding import EncodedPair
from .statistics import Estimate, share

Lengths = NDArray[np.int64]  # [N, 2], chosen and rejected
Floats = NDArray[np.float64]

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
