"""The grid of the sampling suite, and the part of it that fits the time of one run on a device.

Everything is one case an implementation, shape and filter. Cases beyond the device's time are marked `full`; the rest
come in the order of their importance, so that a run cut short has measured the targets.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

IMPLEMENTATIONS = ("ours", "ours+logprobs", "eager", "compiled", "hf", "flashinfer")
FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.9},
    "top_k+top_p": {"top_k": 50, "top_p": 0.9},
    "min_p": {"min_p": 0.05},
}
# The eager chain is cheap to measure; what compiles, or runs outside a graph, keeps to the focus.
EVERYWHERE = ("ours", "eager")
FOCUS_FILTERS = ("none", "top_k+top_p")


@dataclass(frozen=True, slots=True)
class Case:
    """One benchmark."""

    B: int
    M: int
    V: int
    filters: str
    implementation: str

    @property
    def name(self) -> str:
        return f"B{self.B}-M{self.M}-V{self.V}-{self.filters}-{self.implementation}"


@dataclass(frozen=True, slots=True)
class Grid:
    """Shapes, and among them the focus: where every implementation is measured."""

    batches: tuple[int, ...]
    models: tuple[int, ...]
    vocabularies: tuple[int, ...]
    focus_batches: tuple[int, ...]
    focus_models: tuple[int, ...]
    focus_vocabulary: int
    everywhere: tuple[str, ...] = EVERYWHERE

    def cases(self) -> list[Case]:
        """All of them, the focus first, then implementation by implementation."""
        crossed = product(self.batches, self.models, self.vocabularies, FILTERS, IMPLEMENTATIONS)
        return sorted(
            (Case(*values) for values in crossed),
            key=lambda case: (not self.in_focus(case), 0 if self.in_focus(case) else _order(case)),
        )

    def in_focus(self, case: Case) -> bool:
        return (
            self.focus_vocabulary == case.V
            and case.B in self.focus_batches
            and case.M in self.focus_models
            and case.filters in FOCUS_FILTERS
        )

    def fits(self, case: Case) -> bool:
        """Whether the case belongs to a run on a device, or to the full run only."""
        return case.implementation in self.everywhere or self.in_focus(case)


def _order(case: Case) -> int:
    return IMPLEMENTATIONS.index(case.implementation)


GPU_GRID = Grid(
    batches=(1, 8, 64, 256),
    models=(1, 2, 4),
    vocabularies=(32000, 128256, 151936),
    focus_batches=(1, 64),
    focus_models=(2, 4),
    focus_vocabulary=128256,
)
CPU_GRID = Grid(
    batches=(1, 8),
    models=(1, 2),
    vocabularies=(4096, 32000),
    focus_batches=(8,),
    focus_models=(2,),
    focus_vocabulary=4096,
    everywhere=(*EVERYWHERE, "hf"),
)
