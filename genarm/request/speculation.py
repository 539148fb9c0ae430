"""Speculation as a call asks for it: who drafts, and how many tokens ahead."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from numbers import Integral
from pathlib import Path
from typing import Any, Literal

from torch import nn

from ..errors import InvalidArgumentError
from .drafts import MOST, NGRAM, REWARD

MODEL = "draft"
Gamma = int | Literal["auto"] | None


@dataclass(frozen=True, slots=True)
class Speculation:
    """``draft``: "ngram", "reward", or the path or module of a causal LM. ``gamma``: drafts per step; "auto" follows
    what is accepted, None what was measured for a device and a number of rows. ``model`` is a draft model's plan, once
    the decoder has it."""

    draft: Any
    gamma: Gamma = None
    model: Any = None

    @property
    def name(self) -> str:
        """Which source drafts."""
        return self.draft if self.draft in (NGRAM, REWARD) else MODEL


def read_speculation(value: Any) -> Speculation | None:
    """The argument ``speculate``: None, "ngram", "reward", a causal LM (a path, a hub id or loaded), or {"draft": one
    of these, "gamma": 1 to 7 or "auto"}.

    Raises:
        InvalidArgumentError: for anything else.
    """
    if value is None:
        return None
    given = dict(value) if isinstance(value, Mapping) else {"draft": value}
    for name in given:
        if name not in ("draft", "gamma"):
            raise InvalidArgumentError(f'speculate names {name!r}: it takes "draft" and "gamma"')
    draft, gamma = given.get("draft", NGRAM), given.get("gamma")
    if not isinstance(draft, str | Path | nn.Module) or draft == "":
        raise InvalidArgumentError(
            f"speculate drafts by {draft!r}: pass {NGRAM!r}, {REWARD!r}, or a causal LM as a path or loaded"
        )
    if not (gamma is None or gamma == "auto" or _is_count(gamma)):
        raise InvalidArgumentError(f'gamma is {gamma!r}: pass an integer from 1 to {MOST}, or "auto"')
    return Speculation(draft, gamma)


def _is_count(gamma: Any) -> bool:
    return isinstance(gamma, Integral) and not isinstance(gamma, bool) and 1 <= int(gamma) <= MOST


def check_alone(speculation: Speculation | None) -> None:
    """Refuse speculation beside particles.

    Raises:
        InvalidArgumentError: there is some.
    """
    if speculation is not None:
        raise InvalidArgumentError(
            "particles take each other's texts after every token, so none can be drafted ahead: leave speculate out"
        )
