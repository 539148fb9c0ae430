"""The cells of a Pareto sweep: every setting of weights that is decoded, and what each is called.

Three families stand beside one another. ``guided`` decodes with Σ_i w_i log π_i over the reward models. ``soups``
decodes with one reward model whose weights are the average of the others', λ_i = w_i / Σ w, at the weight Σ w: the same
two numbers, spent on weights of models instead of on log-probabilities. ``policies`` decodes the average of fine-tuned
policies plainly, without guidance, as rewarded soups were proposed.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from ..errors import InvalidArgumentError

Family = Literal["guided", "soups", "policies"]
Kind = Literal["base", "single", "mixed"]
SOUP = "soup"  # what the averaged adapter is called among a decoder's reward models
MOST = 2000  # cells; a grid of more is a slip


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting: a number for each of ``names``, objectives or policies."""

    family: Family
    names: tuple[str, ...]
    weights: tuple[float, ...]

    @property
    def mixing(self) -> Kind:
        """How many objectives take part: none, one, or several."""
        used = sum(weight != 0 for weight in self.weights)
        return "mixed" if used > 1 else ("base", "single")[used]

    @property
    def total(self) -> float:
        return math.fsum(self.weights)

    @property
    def shares(self) -> tuple[float, ...]:
        """λ: the weights as parts of their sum, to 12 digits, so that 1 : 2 and 2 : 4 are one."""
        return tuple(round(weight / self.total, 12) for weight in self.weights)

    @property
    def label(self) -> str:
        """Such as ``art=0.5 science=1``, with the family before it where it is not guided."""
        numbers = " ".join(f"{name}={weight:g}" for name, weight in zip(self.names, self.weights, strict=True))
        return numbers if self.family == "guided" else f"{self.family} {numbers}"

    def decoder_weights(self) -> dict[str, float]:
        """What the decoder's reward models weigh, in a decoder with the soup beside them where there is one."""
        if self.family == "guided":
            return dict(zip(self.names, self.weights, strict=True))
        return {SOUP: self.total if self.family == "soups" else 1.0}


def guided_cells(names: Sequence[str], levels: Sequence[float] | None = None, steps: int | None = None) -> list[Cell]:
    """The grid, then what it lacks of the base alone and of each objective alone at its largest weight.

    Args:
        levels: weights that each objective takes, in every combination with the others'.
        steps: instead, weights 0, 1/steps, …, 1 that add up to 1.
    Raises:
        InvalidArgumentError: fewer than two objectives, levels that are no weights, or more than 2000 cells.
    """
    if len(names) < 2:
        raise InvalidArgumentError(
            f"a sweep needs two objectives and there {'is' if names else 'are'} {len(names) or 'none'}: give --reward "
            "twice or more"
        )
    points = _product(levels or (), len(names)) if steps is None else simplex(steps, len(names))
    largest = [max(column, key=abs) for column in zip(*points, strict=True)]
    alone = [tuple(w if i == place else 0.0 for i in range(len(names))) for place, w in enumerate(largest) if w]
    found = dict.fromkeys([*points, (0.0,) * len(names), *alone])
    return [Cell("guided", tuple(names), weights) for weights in found]


def soup_cells(cells: Sequence[Cell]) -> list[Cell]:
    """For every guided cell of several objectives, the soup of the same weights; of fewer, both are the same.

    Raises:
        InvalidArgumentError: a negative weight.
    """
    if any(weight < 0 for cell in cells for weight in cell.weights):
        raise InvalidArgumentError("a soup's shares are w / Σ w, which negative weights have not: leave --soup out")
    return [Cell("soups", cell.names, cell.weights) for cell in cells if cell.mixing == "mixed"]


def policy_cells(names: Sequence[str], steps: int) -> list[Cell]:
    """The average of fine-tuned policies with shares 0, 1/steps, …, 1 that add up to 1."""
    return [Cell("policies", tuple(names), shares) for shares in simplex(steps, len(names))]


def simplex(steps: int, count: int) -> list[tuple[float, ...]]:
    """``count`` numbers of 0, 1/steps, …, 1 that add up to 1, in every way, the first falling slowest."""
    if steps < 1 or math.comb(steps + count - 1, count - 1) > MOST:
        raise InvalidArgumentError(f"{steps} steps for {count} objectives make no sweep of at most {MOST} cells")
    ways = (way for way in itertools.product(range(steps, -1, -1), repeat=count - 1) if sum(way) <= steps)
    return [tuple(part / steps for part in (*way, steps - sum(way))) for way in ways]


def _product(levels: Sequence[float], count: int) -> list[tuple[float, ...]]:
    distinct = list(dict.fromkeys(levels))
    if not any(distinct) or not all(map(math.isfinite, distinct)):
        raise InvalidArgumentError(
            f"--grid is {','.join(f'{level:g}' for level in levels) or 'empty'}: give weights, one of them not 0, such "
            "as 0,0.25,0.5,0.75,1"
        )
    if len(distinct) ** count > MOST:
        raise InvalidArgumentError(
            f"{len(distinct)} weights for each of {count} objectives make {len(distinct) ** count} cells: give fewer "
            f"than {MOST}, or --steps"
        )
    return list(itertools.product(distinct, repeat=count))
