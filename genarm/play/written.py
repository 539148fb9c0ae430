"""What a run has written so far: two texts token by token, each token with every model's log-probability.

What writes them is a `Writer`: the models in this process (`local`), or a server (`served`).
"""

from __future__ import annotations

import math
from collections.abc import Generator, Sequence
from dataclasses import dataclass
from typing import Protocol

from .settings import PlaySettings

BASE = "base"  # the axis of the base model's own log-probability


@dataclass(frozen=True, slots=True)
class WrittenToken:
    """A token's text, log π_base, and log π_r by reward model, in nats; NaN for what nobody said. A mark is shown, but
    no part of what was written: the end that a model drew."""

    text: str
    base: float
    rewards: tuple[float, ...]
    is_mark: bool = False


@dataclass(frozen=True, slots=True)
class WrittenText:
    """One side of the page. ``ending`` says why it ended, "" while it goes on."""

    tokens: tuple[WrittenToken, ...] = ()
    ending: str = ""

    @property
    def text(self) -> str:
        return "".join(token.text for token in self.tokens if not token.is_mark)

    def values(self, place: int, over_base: bool) -> list[float]:
        """Token rewards by the reward model at ``place``, less the base's log-probability where that is asked for."""
        return [token.rewards[place] - (token.base if over_base else 0.0) for token in self.tokens]

    def mean(self, place: int | None) -> float:
        """Nats per token: the mean log π_r of the reward model at ``place``, or for None the mean log π_base. NaN
        where there are no tokens, or nobody said."""
        found = [token.base if place is None else token.rewards[place] for token in self.tokens]
        return math.fsum(found) / len(found) if found else math.nan


@dataclass(frozen=True, slots=True)
class WrittenPair:
    """The base's own text and the guided one, drawn with the same noise."""

    base: WrittenText = WrittenText()
    guided: WrittenText = WrittenText()

    @property
    def is_finished(self) -> bool:
        return bool(self.base.ending and self.guided.ending)


class Writer(Protocol):
    """Writes pairs of texts by a base and these reward models.

    names: of the reward models; ``defaults``: the settings of a page that is opened without a link.
    about: what is decoded with, in a line; ``one_at_a_time``: whether runs wait for one another;
        ``has_chat_template``: whether the base was trained on chats; ``has_base_min_p``: whether the filter is there.
    """

    names: tuple[str, ...]
    defaults: PlaySettings
    about: str
    one_at_a_time: bool
    has_chat_template: bool
    has_base_min_p: bool

    def write(self, settings: PlaySettings) -> Generator[WrittenPair]:
        """The texts as they grow; the last pair is finished. Closing it ends the decoding.

        Raises:
            GenARMError: they cannot be written, for a reason that is the user's to mend.
        """
        ...


def means(text: WrittenText, names: Sequence[str]) -> dict[str, float]:
    """A text's mean log-probability per token under each reward model and the base, in nats."""
    return {BASE: text.mean(None), **{name: text.mean(place) for place, name in enumerate(names)}}
