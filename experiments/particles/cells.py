"""What is decoded: every guidance weight, with and without a filter, by 1 to 64 particles, and what is set beside."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

OBJECTIVE = "art"
PROMPTS = (
    "I really enjoy",
    "On a free day I",
    "The most important thing in life is",
    "On weekends I like to",
    "My friends would say that",
    "I believe that",
)
WEIGHTS = (0.25, 0.35, 0.5, 0.7, 1.0, 1.4, 2.0)
FILTERS = (0.0, 0.1)  # base_min_p; 0 is off
SYSTEMS = {1: 64, 4: 32, 16: 16, 64: 8}  # particles -> systems per prompt, fewer where each costs more
BEST_OF = 16
BEST_OF_WEIGHTS = (0.0, 0.5, 1.0)  # 0 is the base
BEST_OF_ANSWERS = 16  # per prompt, each of BEST_OF draws of its own
BONUSES = {0.5: (0.5, 1.0, 1.5, 2.0), 1.0: (1.0, 2.0, 3.0)}  # weight -> length_bonus, nats per token
BONUS_PARTICLES = (4, 16)
EVIDENCE_PARTICLES = 2048
EVIDENCE_WEIGHTS = (0.5,)
MOST_ANSWERS = 8  # drawn from one system


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting. ``systems``: how many particle systems each prompt has, or how many draws where there is one
    particle per system, which is plain decoding."""

    weight: float
    base_min_p: float
    particles: int
    systems: int
    length_bonus: float = 0.0

    @property
    def name(self) -> str:
        bonus = f"-bonus-{self.length_bonus:g}" if self.length_bonus else ""
        return f"weight-{self.weight:g}-min-p-{self.base_min_p:g}-particles-{self.particles}{bonus}"

    @property
    def answers(self) -> int:
        """Answers drawn from each system, so that what one answer is like on average takes fewer systems."""
        return min(self.particles, MOST_ANSWERS)


def frontier(systems: dict[int, int], best_of_answers: int) -> list[Cell]:
    """The base alone, and every weight under every filter by every number of particles.

    Plain draws that best-of-n chooses from are as many as it needs.
    """
    cells = []
    for particles, count in systems.items():
        weights: Sequence[float] = (0.0, *WEIGHTS) if particles == 1 else WEIGHTS
        for base_min_p in FILTERS:
            for weight in weights:
                chosen_from = BEST_OF * best_of_answers if particles == 1 and weight in BEST_OF_WEIGHTS else 0
                cells.append(Cell(weight, base_min_p, particles, max(count, chosen_from)))
    return cells


def lengths(systems: dict[int, int]) -> list[Cell]:
    """Particles that get a bonus per token, without filters."""
    return [
        Cell(weight, 0.0, particles, systems[particles], bonus)
        for particles in BONUS_PARTICLES
        for weight, bonuses in BONUSES.items()
        for bonus in bonuses
    ]


def evidence(particles: int) -> list[Cell]:
    """One large system per prompt, for log Z."""
    return [Cell(weight, 0.0, particles, 1) for weight in EVIDENCE_WEIGHTS]
