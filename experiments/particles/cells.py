"""What is decoded: every guidance weight, with and without a filter, by 1 to 64 particles, and what is set beside."""

from __future__ import annotations

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
SYSTEMS = {1: 64, 4: 16, 16: 8, 64: 4}  # particles -> systems per prompt and round, fewer where each costs more
CHECKED = (0.5, 0.0)  # the weight and filter at which particles are set against plain decoding have rounds more
CHECKED_ROUNDS = {4: 2, 16: 2}
BEST_OF = 16
BEST_OF_WEIGHTS = (0.0, 0.5, 1.0)  # 0 is the base
BEST_OF_ANSWERS = 16  # per prompt, each of BEST_OF draws of its own
BONUSES = {4: {0.5: (0.5, 1.0, 1.5, 2.0, 3.0, 4.0), 1.0: (1.0, 2.0, 3.0, 4.0)}}  # particles -> weight -> nats per token
EVIDENCE_PARTICLES = 2048
EVIDENCE_WEIGHTS = (0.5,)
MOST_ANSWERS = 8  # drawn from one system


@dataclass(frozen=True, slots=True)
class Cell:
    """One setting. ``systems``: how many particle systems each prompt has in each of ``rounds``; with one particle per
    system they are plain draws."""

    weight: float
    base_min_p: float
    particles: int
    systems: int
    length_bonus: float = 0.0
    rounds: int = 1
    resample_below: float = 0.5

    @property
    def name(self) -> str:
        bonus = f"-bonus-{self.length_bonus:g}" if self.length_bonus else ""
        return f"weight-{self.weight:g}-min-p-{self.base_min_p:g}-particles-{self.particles}{bonus}"

    @property
    def answers(self) -> int:
        """Answers drawn from each system, so that what one answer is like on average takes fewer systems."""
        return min(self.particles, MOST_ANSWERS)


def frontier() -> list[Cell]:
    """The base alone, and the weights under every filter by every number of particles.

    Plain draws that best-of-n chooses from are as many as it needs.
    """
    cells = []
    for particles, systems in SYSTEMS.items():
        for base_min_p in FILTERS:
            for weight in (0.0, *WEIGHTS) if particles == 1 else WEIGHTS:  # 0 is the base
                chosen_from = BEST_OF * BEST_OF_ANSWERS if particles == 1 and weight in BEST_OF_WEIGHTS else 0
                count = max(systems, chosen_from)
                rounds = CHECKED_ROUNDS.get(particles, 1) if (weight, base_min_p) == CHECKED else 1
                cells.append(Cell(weight, base_min_p, particles, count, rounds=rounds))
    return cells


def lengths() -> list[Cell]:
    """Particles that get a bonus per token, without filters."""
    return [
        Cell(weight, 0.0, particles, SYSTEMS[particles], bonus)
        for particles, by_weight in BONUSES.items()
        for weight, bonuses in by_weight.items()
        for bonus in bonuses
    ]


def evidence() -> list[Cell]:
    """One large system per prompt, for log Z. Resampled after every token it ends sooner, with Ẑ unbiased all the same:
    a few particles that go on and on with little weight cost as much as all."""
    return [Cell(weight, 0.0, EVIDENCE_PARTICLES, 1, resample_below=1.0) for weight in EVIDENCE_WEIGHTS]
