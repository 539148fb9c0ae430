"""Which colour a token reward has among those shown with it."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass

# The share of all values at either end that get the full colour.
TAIL = 0.05


@dataclass(frozen=True, slots=True)
class Scale:
    """Colours that fit the values shown: none at their median, full at the highest and at the lowest 5%.

    A fixed scale around 0 would not do: a reward model takes probability from all that it does not favour, so that most
    tokens lie below 0 on any text, and by how much differs from model to model.
    """

    values: tuple[float, ...]  # in order, none NaN

    @classmethod
    def of(cls, values: Iterable[float]) -> Scale:
        return cls(tuple(sorted(value for value in values if not math.isnan(value))))

    def quantile(self, share: float) -> float:
        """The value below which this share of all values lies; 0 where there are no values."""
        if not self.values:
            return 0.0
        place = share * (len(self.values) - 1)
        low, high = self.values[math.floor(place)], self.values[math.ceil(place)]
        return low if low == high else low + (high - low) * (place - math.floor(place))

    def strength(self, value: float) -> float:
        """How full a value's colour is: −1 (lowest) to 1 (highest); 0 at the median, and for NaN."""
        middle = self.quantile(0.5)
        if math.isnan(value) or value == middle:
            return 0.0
        side = 1.0 if value > middle else -1.0
        width = abs(self.quantile(1 - TAIL if value > middle else TAIL) - middle)
        share = abs(value - middle) / width if width and math.isfinite(width) else 1.0
        return side * min(share, 1.0)
