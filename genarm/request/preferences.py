"""Preferences over the objectives of a reward model that is conditioned on them (PARM), as a call gives them.

A preference is one number per objective, each at least 0, and all of them together 1.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from numbers import Real

from ..errors import InvalidArgumentError, RewardNameError

# One number per objective, in the adapter's order.
Preference = tuple[float, ...]
# {reward model: {objective: number}}
NamedPreferences = Mapping[str, Mapping[str, float]]
Preferences = NamedPreferences | Sequence[NamedPreferences] | None
SLACK = 0.01  # of a sum: numbers that were rounded are divided by it


@dataclass(frozen=True, slots=True)
class Objectives:
    """What a reward model is conditioned on: the objectives in its own order, and what holds where a call says
    nothing."""

    names: tuple[str, ...]
    default: Preference | None = None

    def read(self, where: str, given: Mapping[str, float]) -> Preference:
        """``given`` in the adapter's order, divided by its sum, which may be a rounding error away from 1.

        Raises:
            InvalidArgumentError: an objective that is unknown or left out, a negative number, another sum.
        """
        if not isinstance(given, Mapping):
            raise InvalidArgumentError(f"{where} is {given!r}: pass {self.example}")
        unknown = next((name for name in given if name not in self.names), None)
        if unknown is not None:
            raise InvalidArgumentError(f"{where} names {unknown!r}: its objectives are {', '.join(self.names)}")
        lacking = [name for name in self.names if name not in given]
        if lacking:
            raise InvalidArgumentError(
                f"{where} says nothing of {', '.join(lacking)}: give a number for each of {', '.join(self.names)}"
            )
        return self.checked(where, [given[name] for name in self.names])

    def checked(self, where: str, numbers: Sequence[float]) -> Preference:
        """Numbers in the adapter's order as a preference; the same errors."""
        for name, number in zip(self.names, numbers, strict=True):
            is_number = isinstance(number, Real) and not isinstance(number, bool)
            if not is_number or not math.isfinite(number) or number < 0:
                raise InvalidArgumentError(f"{where}: {name} is {number!r}: pass a number from 0 to 1")
        total = math.fsum(numbers)
        if abs(total - 1.0) > SLACK:
            cure = "give at least one of them a share"
            if total > 0:
                shares = zip(self.names, numbers, strict=True)
                cure = "divide them by their sum: " + ", ".join(f"{name} {one / total:.3g}" for name, one in shares)
            raise InvalidArgumentError(
                f"{where} sums to {total:g}, and a preference divides 1 among the objectives: {cure}"
            )
        return tuple(float(number) / total for number in numbers)

    @property
    def example(self) -> str:
        """An equal preference as a call writes it."""
        share = round(1 / len(self.names), 3)
        return "{" + ", ".join(f"{name!r}: {share:g}" for name in self.names) + "}"

    @property
    def text(self) -> str:
        """The same as a command line writes it."""
        share = round(1 / len(self.names), 3)
        return ",".join(f"{name}:{share:g}" for name in self.names)


def preference_rows(
    given: Preferences, conditioned: Mapping[str, Objectives], names: Sequence[str], batch: int, copies: int
) -> dict[int, tuple[Preference, ...]]:
    """{place among ``names``: each of ``batch`` rows' preference} of the reward models that are ``conditioned``.

    A list holds one entry per row, or per prompt of ``copies`` rows each.

    Raises:
        RewardNameError: a name that is not loaded.
        InvalidArgumentError: a preference for a model that takes none, a missing one, or one that is none.
    """
    rows = _per_row(given, batch, copies)
    for row in [rows[0]] if isinstance(given, Mapping) else rows:
        for name in row:
            if name not in names[1:]:
                known = ", ".join(conditioned) or "none"
                raise RewardNameError(
                    f"preferences names {name!r}, which is not loaded: the reward models that take one are {known}"
                )
            if name not in conditioned:
                raise InvalidArgumentError(f"preferences names {name!r}, which takes none: give it a weight instead")
    found = {}
    for name, objectives in conditioned.items():
        read: dict[int, Preference] = {}  # a mapping for all rows is read once
        for row in rows:
            if id(row) not in read:
                read[id(row)] = _of(name, objectives, row)
        found[list(names).index(name)] = tuple(read[id(row)] for row in rows)
    return found


def _per_row(given: Preferences, batch: int, copies: int) -> list[NamedPreferences]:
    if given is None:
        return [{}] * batch
    if isinstance(given, Mapping):
        return [given] * batch
    if isinstance(given, str) or not isinstance(given, Sequence) or not all(isinstance(row, Mapping) for row in given):
        raise InvalidArgumentError(
            f"preferences is {given!r}: pass {{reward model: {{objective: share}}}}, or a list with one per sequence"
        )
    rows = [row for row in given for _ in range(copies)] if len(given) * copies == batch else list(given)
    if len(rows) != batch:
        raise InvalidArgumentError(f"preferences is a list of {len(given)} for {batch} sequences: give one each")
    return rows


def _of(name: str, objectives: Objectives, row: NamedPreferences) -> Preference:
    if name in row:
        return objectives.read(f"the preference of {name!r}", row[name])
    if objectives.default is not None:
        return objectives.default
    raise InvalidArgumentError(
        f"reward model {name!r} is conditioned on a preference over {', '.join(objectives.names)}, and none was given: "
        f"pass preferences={{{name!r}: {objectives.example}}} (--preference {name}={objectives.text})"
    )
