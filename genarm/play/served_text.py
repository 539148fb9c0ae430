"""A text as a server streams it: pieces of text and, in a rhythm of their own, tokens with their log-probabilities.

A server holds text back that may become a stop string or is half a letter, so text comes later than its tokens; and it
spells each token by itself, where some tokenizers leave out the space before a word. What a token has of the text is
therefore found by going through both.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from ..serving.settings import ASK
from .written import BASE, WrittenText, WrittenToken

ENDINGS = {"stop": "ended by itself", "length": "reached the most new tokens"}
BETWEEN = 2  # characters that may stand between two tokens and be spelled with neither


@dataclass(slots=True)
class ServedText:
    """One text of a stream. ``names`` are the reward models'."""

    names: Sequence[str]
    _text: str = ""
    _spelled: list[str] = field(default_factory=list)
    _values: list[tuple[float, ...]] = field(default_factory=list)
    _ending: str = ""
    _is_marked: bool = False  # the last token is the end that a model drew

    def push(self, choice: Mapping[str, Any]) -> None:
        """A chunk's choice, of completions or of chats."""
        self._text += choice.get("text") or (choice.get("delta") or {}).get("content") or ""
        logprobs = choice.get("logprobs") or {}
        spelled = logprobs.get("tokens") or [one["token"] for one in logprobs.get("content") or ()]
        told = logprobs.get(ASK) or {}
        columns = [told.get(name) or [None] * len(spelled) for name in (BASE, *self.names)]
        self._spelled += spelled
        self._values += [tuple(map(_number, row)) for row in zip(*columns, strict=True)]
        reason = choice.get("finish_reason")
        if reason:
            self._ending = ENDINGS.get(reason, f"ended ({reason})")
            self._is_marked = reason == "stop" and choice.get("stop_reason") is None

    @property
    def is_over(self) -> bool:
        return bool(self._ending)

    def written(self) -> WrittenText:
        """The text so far. The end that a model drew is a token of its own; what a stop string hides is none."""
        found = []
        last = len(self._spelled) - 1
        shown = zip(_pieces(self._text, self._spelled), self._spelled, self._values, strict=True)
        for place, (piece, spelled, (base, *rewards)) in enumerate(shown):
            is_mark = piece is None and place == last and self._is_marked
            if piece is not None or is_mark:
                found.append(WrittenToken(spelled if piece is None else piece, base, tuple(rewards), is_mark))
        return WrittenText(tuple(found), self._ending)


def _pieces(text: str, spelled: Iterable[str]) -> Iterator[str | None]:
    """What each token has of the text; None where the text ends before it."""
    at = unfound = 0
    for one in spelled:
        place = text.find(one, at, at + len(one) + BETWEEN + unfound)
        if place >= 0:
            begin, at, unfound = at, place + len(one), 0
            yield text[begin:at]
        elif at == len(text):
            yield None
        elif one.startswith((text[at:], text[at:].lstrip())):  # the server holds the rest of it back
            begin, at = at, len(text)
            yield text[begin:at]
        else:  # such as a mark, which no text shows
            unfound += len(one)
            yield ""


def _number(value: float | None) -> float:
    return math.nan if value is None else value
