"""Token ids -> text, at once or token by token.

A character may be spread over several tokens, and a decoder may treat the first token of a text otherwise than the
same token inside it (SentencePiece drops its space). So new tokens are decoded behind the prompt's last ones, a
character is shown once it is whole, and text that may become a stop string is kept back. Streamed pieces joined are the
text that is returned in the end.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from copy import copy
from dataclasses import dataclass
from typing import Any

# ids -> their text, special tokens left out
Decode = Callable[[list[int]], str]

CONTEXT = 8  # tokens of the prompt that new ones are decoded behind
WINDOW = 24  # tokens that are decoded again for every new one, at most, as long as characters end
UNFINISHED = "\ufffd"  # what the bytes of a character decode to before the last of them is there
MOST_UNFINISHED = 3  # of a UTF-8 character's bytes


@dataclass(frozen=True, slots=True)
class TokenText:
    """A tokenizer's text of ids, special tokens left out, nothing tidied up."""

    tokenizer: Any

    def __call__(self, ids: list[int]) -> str:
        text: str = self.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text


def new_text(decode: Decode, prompt: Sequence[int], tokens: Sequence[int]) -> str:
    """The text that ``tokens`` add to a prompt, which may end inside a character."""
    context = _context(decode, prompt)
    before, whole = _whole(decode(context)), decode([*context, *tokens])
    if UNFINISHED not in whole and whole.startswith(before):
        return whole[len(before) :]
    pieces = Pieces(decode, prompt)  # bytes that are no character: as they are streamed
    return "".join([*map(pieces.push, tokens), pieces.rest()])


class Pieces:
    """The text of a row's new tokens, as it becomes final. Joined, the pieces are ``new_text``."""

    def __init__(self, decode: Decode, prompt: Sequence[int] = ()) -> None:
        self._decode = decode
        self._ids = _context(decode, prompt)
        self._shown = _whole(decode(self._ids))  # of their text
        self._whole = len(self._ids)  # how many of them end with a character, before the last piece

    def push(self, token: int) -> str:
        """The text that is final with one more token: "" inside of a character."""
        self._ids.append(token)
        text = self._decode(self._ids)
        whole = _whole(text)
        if not whole.startswith(self._shown):
            if whole != text:  # one byte too few makes some decoders doubt the characters before it as well
                return ""
            self._restart()  # bytes that are no character, for good
            text = whole = self._decode(self._ids)
        piece, self._shown = whole[len(self._shown) :], whole
        if piece and whole == text:
            self._shorten()
        return piece

    def rest(self) -> str:
        """What is left of the text once no more tokens follow: a character that was never finished."""
        text = self._decode(self._ids)
        if not text.startswith(self._shown):
            self._restart()
            text = self._decode(self._ids)
        piece, self._shown = text[len(self._shown) :], text
        return piece

    def __copy__(self) -> Pieces:
        other = object.__new__(Pieces)
        other.__dict__.update(self.__dict__, _ids=list(self._ids))
        return other

    def _restart(self) -> None:
        self._ids, self._shown, self._whole = self._ids[self._whole :], "", 0

    def _shorten(self) -> None:
        """At the end of a character: forget the tokens before the last piece, where that still stands before the next
        token as text."""
        if len(self._ids) > WINDOW:
            kept = self._ids[self._whole :]
            text = self._decode(kept)
            if text and UNFINISHED not in text:
                self._ids, self._shown = kept, text
        self._whole = len(self._ids)


class RowText:
    """One row's text while it is decoded, cut where a stop string begins."""

    def __init__(self, decode: Decode, prompt: Sequence[int], stops: Sequence[str] = ()) -> None:
        self._pieces = Pieces(decode, prompt)
        self._stops = stops
        self._taken, self._ended = 0, False
        self.text = ""
        self.stopped = False

    def push(self, token: int) -> bool:
        """Add a token; whether the text holds a stop string now, before which it ends."""
        known = len(self.text)
        self.text += self._pieces.push(token)
        places = [self.text.find(stop, max(0, known - len(stop) + 1)) for stop in self._stops]
        found = [place for place in places if place >= 0]
        if found:
            self.text, self.stopped = self.text[: min(found)], True
        return self.stopped

    def fork(self) -> RowText:
        """The same text, to be gone on with apart."""
        other = copy(self)
        other._pieces = copy(self._pieces)
        return other

    def take(self, ended: bool) -> str:
        """What has become final since the last time. Before the row has ``ended``, what may be the beginning of a stop
        string waits for more."""
        final = len(self.end()) if ended else len(self.text) - _begun(self.text, self._stops)
        piece = self.text[self._taken : final]
        self._taken = max(self._taken, final)
        return piece

    def end(self) -> str:
        """The whole text, once no token follows."""
        if not (self.stopped or self._ended):
            self.text += self._pieces.rest()
        self._ended = True
        return self.text


def text_before_stop(decode: Decode, prompt: Sequence[int], tokens: Sequence[int], stops: Sequence[str]) -> str:
    """The text that ``tokens`` add to a prompt, cut where a stop string begins."""
    if not stops:
        return new_text(decode, prompt, tokens)
    text = RowText(decode, prompt, stops)
    for token in tokens:
        text.push(token)
    return text.end()


def _context(decode: Decode, prompt: Sequence[int]) -> list[int]:
    """The last tokens of a prompt, beginning with a character where it can be seen."""
    count = CONTEXT
    while count < len(prompt) and decode(list(prompt[-count:])).startswith(UNFINISHED):
        count *= 2
    return list(prompt[-count:])


def _whole(text: str) -> str:
    """The text without a character at its end that may not be finished."""
    kept = text.rstrip(UNFINISHED)
    return text[: max(len(kept), len(text) - MOST_UNFINISHED)]


def _begun(text: str, stops: Sequence[str]) -> int:
    """Characters at the end of a text that a stop string may begin with."""
    longest = max(map(len, stops), default=0) - 1
    for count in range(min(longest, len(text)), 0, -1):
        if any(stop.startswith(text[-count:]) for stop in stops):
            return count
    return 0
