"""What was tried on a page: every finished run with its place in the plot, to which one can go back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from .settings import PlaySettings
from .written import BASE, WrittenPair, means

MOST_TRIED = 100  # runs that are kept; older ones are forgotten
Point = tuple[float, float]


@dataclass(frozen=True, slots=True)
class Tried:
    """A finished run. ``base`` and ``guided`` hold each text's mean log-probability per token by reward model, and
    under "base" the base's own, in nats."""

    number: int
    settings: PlaySettings
    pair: WrittenPair
    base: dict[str, float]
    guided: dict[str, float]

    def label(self) -> str:
        """The run in a list: its number, the weights that are not 0, and how its prompt begins."""
        weights = [f"{name} {weight:g}" for name, weight in self.settings.weights.items() if weight]
        beta = [] if self.settings.beta == 1 else [f"β {self.settings.beta:g}"]
        prompt = " ".join(self.settings.prompt.split())
        shown = prompt if len(prompt) <= 24 else f"{prompt[:23]}…"
        return f"{self.number}: {', '.join([*weights, *beta]) or 'no weights'} · {shown}"


def with_run(tried: Sequence[Tried], settings: PlaySettings, pair: WrittenPair, names: Sequence[str]) -> list[Tried]:
    """The runs with one more, which comes last."""
    number = tried[-1].number + 1 if tried else 1
    new = Tried(number, settings, pair, means(pair.base, names), means(pair.guided, names))
    return [*tried, new][-MOST_TRIED:]


def numbered(tried: Sequence[Tried], number: int | None) -> Tried | None:
    """The run of that number; None where there is none."""
    return next((one for one in tried if one.number == number), None)


def front(points: Sequence[Point]) -> list[Point]:
    """Those points that no other one dominates (at least as large in both, and larger in one), from left to right;
    equal ones once. What is not finite has no place."""
    found: list[Point] = []
    for x, y in sorted({point for point in points if all(map(math.isfinite, point))}, reverse=True):
        if not found or y > found[-1][1]:
            found.append((x, y))
    return found[::-1]


def default_axes(names: Sequence[str]) -> tuple[str, str]:
    """The first two reward models; of a single one against what the base makes of its texts."""
    return (names[0], names[1]) if len(names) > 1 else (names[0], BASE)
