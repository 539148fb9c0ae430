"""How many tokens are drafted ahead in the next step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from ..models.backbone import Backbone
from ..request.options import Request

# (rows of a pass up to so many, drafts). Of a CPU by what passes over more places cost one, measured and judged by
# bench/speculation_costs.py. Of GPUs nothing has been measured: there an estimate of where they stop being nearly free.
USUAL = {"cpu": ((1, 2), (4, 1)), "cuda": ((1, 4), (4, 3), (8, 1))}
# (rows of a pass up to so many, what such a pass over the places of USUAL takes more than one over a single place, by
# the same figures).
EXTRA = {"cpu": ((1, 0.13), (2, 0.1), (4, 0.65))}
LOSS = 0.03  # the share of a row's plain steps that its drafts may cost it in vain, where nobody said how many
CHOICES = (0, 1, 3, 7)
PROBE = 48  # steps without drafts before one with a single draft looks whether they are right again
FADING = 0.8  # of what was known, at every new step


class Policy(Protocol):
    """What a run's steps ask before each."""

    gamma: int
    allowance: Allowance | None

    @property
    def gammas(self) -> tuple[int, ...]:
        """Numbers of drafts that a step may have."""

    @property
    def places(self) -> tuple[int, ...]:
        """Places per row at which one may draw."""

    def note(self, gamma: int, proposed: int, accepted: int, seconds: float) -> None:
        """What came of a step, all rows together."""


@dataclass(slots=True)
class Allowance:
    """Which rows may propose drafts, so that what those of a row have cost in vain stays a small share of its text.

    A pass that holds a row's drafts costs ``extra`` plain steps more than a plain one, and saves one with each of the
    row's drafts that is right. It is judged by the row's own record alone: what is beside it changes nothing.
    """

    extra: float
    share: float
    _counts: list[int] = field(default_factory=list)
    _spent: list[float] = field(default_factory=list)
    _proposed: list[bool] = field(default_factory=list)

    def allowed(self, counts: list[int]) -> list[bool]:
        """Of rows with so many new tokens so far; a row with no more than the last in its place is another."""
        if not self._counts:
            self._counts, self._spent = [0] * len(counts), [0.0] * len(counts)
            self._proposed = [False] * len(counts)
        for row, (count, before) in enumerate(zip(counts, self._counts, strict=True)):
            if count <= before:
                self._spent[row] = 0.0
            elif self._proposed[row]:
                self._spent[row] += self.extra - (count - before - 1)
        self._counts, self._proposed = counts, [False] * len(counts)
        return [spent + self.extra <= self.share * count for spent, count in zip(self._spent, counts, strict=True)]

    def note(self, proposed: list[bool]) -> None:
        """Which rows' drafts the step reads."""
        self._proposed = proposed


class Fixed:
    """Always as many, whatever they come to: what a row draws depends on no other. Rows may propose them as far as an
    ``allowance`` goes."""

    def __init__(self, gamma: int, allowance: Allowance | None = None) -> None:
        self.gamma, self.allowance = gamma, allowance
        self.gammas = (gamma,)
        self.places = (gamma + 1,)

    def note(self, gamma: int, proposed: int, accepted: int, seconds: float) -> None:
        """Nothing follows from it."""


class Auto:
    """As many as gave the most tokens per second lately.

    With drafts that are right with probability p each, a step with gamma of them is to give 1 + p + … + p^gamma tokens.
    How long one takes is known of those that were run, and lies between them for the others.
    """

    allowance: Allowance | None = None
    gammas = CHOICES
    places = tuple(gamma + 1 for gamma in CHOICES)

    def __init__(self) -> None:
        self.gamma = CHOICES[2]
        self._right = 0.5
        self._seconds: dict[int, float] = {}
        self._idle = 0

    def note(self, gamma: int, proposed: int, accepted: int, seconds: float) -> None:
        """Learn from a step, and choose for those to come."""
        gamma = gamma if proposed else 0  # nothing was proposed, and nothing read that was not needed
        before = self._seconds.get(gamma, seconds)
        self._seconds[gamma] = min(before * FADING + seconds * (1 - FADING), 2 * before)  # a hiccup is no rule
        if proposed:
            tries = accepted + proposed // gamma  # each row's first wrong one was the last that was looked at
            self._right = self._right * FADING + min(1.0, accepted / max(tries, 1)) * (1 - FADING)
        self._idle = 0 if self.gamma else self._idle + 1
        unknown = [one for one in (3, 0) if one not in self._seconds]
        if unknown and gamma:
            self.gamma = unknown[-1]
        elif self._idle >= PROBE:
            self.gamma = 1
        else:
            self.gamma = max(CHOICES, key=self._worth)

    def _worth(self, gamma: int) -> float:
        return sum(self._right**one for one in range(gamma + 1)) / self._cost(gamma)

    def _cost(self, gamma: int) -> float:
        """Seconds of a step, by those of the nearest numbers of drafts on either side."""
        below = max((one for one in self._seconds if one <= gamma), default=None)
        above = min((one for one in self._seconds if one >= gamma), default=None)
        if below is None or above is None or below == above:
            near = above if below is None else below
            assert near is not None
            # Beyond what was run a step costs at most as much per place as it did there.
            return self._seconds[near] * (1 if gamma <= near else 1 + 0.05 * (gamma - near))
        share = (gamma - below) / (above - below)
        return self._seconds[below] * (1 - share) + self._seconds[above] * share


def make_policy(request: Request, backbones: Sequence[Backbone]) -> Policy:
    """The policy that a request asks for, where its rows are read by these."""
    if request.speculate is None:
        return Fixed(0)
    gamma = request.speculate.gamma
    if gamma == "auto":
        return Auto()
    if gamma is not None:
        return Fixed(gamma)
    rows = len(request.row_ids) * max(len(one.streams) for one in backbones)
    usual, extra = (_up_to(table.get(request.device.type, ()), rows) for table in (USUAL, EXTRA))
    share = LOSS / len(request.row_ids)  # a pass with one row's drafts costs all rows
    return Fixed(int(usual or 0), None if extra is None else Allowance(extra, share))


def _up_to(table: Sequence[tuple[int, float]], rows: int) -> float | None:
    return next((value for most, value in table if rows <= most), None)
