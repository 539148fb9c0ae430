"""What the page has beside the controls of a run's settings."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Example:
    """A prompt with weights to try it with; those that are not named are 0."""

    prompt: str
    weights: Mapping[str, float]

    def label(self) -> str:
        """What its button says."""
        weights = (f"{name} {weight:g}".replace("-", "−") for name, weight in self.weights.items())
        return f"{self.prompt} … ({', '.join(weights)})"


@dataclass(frozen=True, slots=True)
class PageParts:
    """What is on the page beside the controls of ``Controls``."""

    group: Any  # what only a chat has
    before: Any
    keep: Any
    forget: Any
    run: Any
    stop: Any
    live: Any
    examples: Any
    status: Any
    base: Any
    guided: Any
    legend: Any
    plot: Any
    runs: Any
    link: Any
    board: Any  # the texts that stand on it, and the finished runs
    linked: Any  # whether it was opened by a link to settings
