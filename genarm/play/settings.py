"""What one run of the page is asked for, and the same as a link: opening it brings everything back.

A link is a query string with every setting written out, so that it says the same wherever the page's own defaults are
others. What cannot be read in one keeps its default, and a sentence says so.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar
from urllib.parse import urlencode

PROMPT, CHAT = "prompt", "chat"
WEIGHT = "weight."  # before a reward model's name
MOST_SEED = 2**31 - 1
LONGEST_LINK = 8000  # characters of a query, which browsers and servers take everywhere
WEIGHTS, BETAS, TEMPERATURES = (-2.0, 4.0), (0.1, 4.0), (0.0, 2.0)
NEW_TOKENS = (1, 1024)

Range = tuple[float, float]
Value = TypeVar("Value")


@dataclass(frozen=True, slots=True)
class PlaySettings:
    """One run.

    mode: PROMPT goes on from ``prompt``; CHAT answers it, after the ``turns`` (message, answer) before it.
    weights: by reward model. ``beta`` divides them.
    base_min_p: leaves out tokens the base finds that much less likely than its favourite; 0 leaves out none.
    colour: the reward model whose token rewards colour the texts; ``over_base`` takes the base's log-probability off.
    axes: what the plot has to the right and upwards, names of reward models or "base".
    """

    prompt: str = ""
    mode: str = PROMPT
    turns: tuple[tuple[str, str], ...] = ()
    system: str = ""
    weights: Mapping[str, float] = field(default_factory=dict)
    beta: float = 1.0
    temperature: float = 1.0
    base_min_p: float = 0.0
    new_tokens: int = 48
    seed: int = 0
    colour: str = ""
    over_base: bool = True
    axes: tuple[str, str] = ("", "")

    def to_query(self) -> str:
        """The query string of a link to these settings."""
        chat = {"system": self.system, "turns": json.dumps(self.turns, ensure_ascii=False)} if self.mode == CHAT else {}
        values: dict[str, Any] = {
            "prompt": self.prompt,
            "mode": self.mode,
            **chat,
            **{WEIGHT + name: _number(weight) for name, weight in self.weights.items()},
            "beta": _number(self.beta),
            "temperature": _number(self.temperature),
            "base_min_p": _number(self.base_min_p),
            "new_tokens": self.new_tokens,
            "seed": self.seed,
            "colour": self.colour,
            "over_base": int(self.over_base),
            "x": self.axes[0],
            "y": self.axes[1],
        }
        return urlencode(values)


def from_query(query: Mapping[str, str], defaults: PlaySettings) -> tuple[PlaySettings, list[str]]:
    """The settings of a link, and a sentence for each thing in it that could not be taken.

    Args:
        query: the link's parameters; those it does not know are another's.
        defaults: of this page. Its ``weights`` name the reward models that are loaded, its ``axes`` what can be one.
    """
    notes: list[str] = []
    names = list(defaults.weights)
    axes = [*names, "base"]
    reader = _Reader(query, notes)
    weights = {
        name: reader.number(WEIGHT + name, weight, weight_range(weight)) for name, weight in defaults.weights.items()
    }
    strangers = [
        key.removeprefix(WEIGHT) for key in query if key.startswith(WEIGHT) and key[len(WEIGHT) :] not in names
    ]
    if strangers:
        known = ", ".join(names)
        notes.append(f"The link weighs {', '.join(strangers)}, which this page does not have; it has {known}.")
    found = replace(
        defaults,
        prompt=query.get("prompt", defaults.prompt),
        mode=reader.choice("mode", defaults.mode, (PROMPT, CHAT)),
        turns=reader.turns(),
        system=query.get("system", defaults.system),
        weights=weights,
        beta=reader.number("beta", defaults.beta, BETAS),
        temperature=reader.number("temperature", defaults.temperature, TEMPERATURES),
        base_min_p=reader.number("base_min_p", defaults.base_min_p, (0.0, 1.0)),
        new_tokens=round(reader.number("new_tokens", defaults.new_tokens, NEW_TOKENS)),
        seed=round(reader.number("seed", defaults.seed, (0, MOST_SEED))),
        colour=reader.choice("colour", defaults.colour, names),
        over_base=reader.choice("over_base", str(int(defaults.over_base)), ("0", "1")) == "1",
        axes=(reader.choice("x", defaults.axes[0], axes), reader.choice("y", defaults.axes[1], axes)),
    )
    return found, notes


def weight_range(weight: float) -> Range:
    """What a weight can be chosen from, wide enough for the one that a page begins with."""
    return min(WEIGHTS[0], weight), max(WEIGHTS[1], weight)


@dataclass(frozen=True, slots=True)
class _Reader:
    """Takes values out of a query, and notes those that it cannot take."""

    query: Mapping[str, str]
    notes: list[str]

    def number(self, key: str, default: float, allowed: Range) -> float:
        low, high = allowed

        def read(text: str) -> float:
            value = float(text)
            if not math.isfinite(value):
                raise ValueError
            return value

        value = self._read(key, default, read, f"a number from {_number(low)} to {_number(high)}")
        if low <= value <= high:
            return value
        kept = min(max(value, low), high)
        self.notes.append(f"The link's {key} is {_number(value)}, beyond {_number(kept)}, which it became.")
        return kept

    def choice(self, key: str, default: str, allowed: Sequence[str]) -> str:
        def read(text: str) -> str:
            if text not in allowed:
                raise ValueError
            return text

        return self._read(key, default, read, f"one of {', '.join(allowed)}")

    def turns(self) -> tuple[tuple[str, str], ...]:
        def read(text: str) -> tuple[tuple[str, str], ...]:
            found = tuple((asked, answer) for asked, answer in json.loads(text))
            if not all(isinstance(part, str) for turn in found for part in turn):
                raise ValueError
            return found

        return self._read("turns", (), read, "a list of [message, answer]")

    def _read(self, key: str, default: Value, read: Callable[[str], Value], wanted: str) -> Value:
        text = self.query.get(key)
        if text is None:
            return default
        try:
            return read(text)
        except (ValueError, TypeError):
            self.notes.append(f"The link's {key} is {_shortened(text)!r}, and should be {wanted}: it was left out.")
            return default


def _number(value: float) -> str:
    return f"{value:.10g}"


def _shortened(text: str) -> str:
    return text if len(text) <= 40 else f"{text[:39]}…"
