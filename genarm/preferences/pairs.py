"""Preference pairs in the formats that TRL reads: with a prompt of their own, or with one that both begin with."""

from __future__ import annotations

import json
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeGuard

from ..errors import InvalidArgumentError
from .rows import Rows, read_rows

Message = dict[str, Any]
Text = str | list[Message]

SIDES = ("chosen", "rejected")


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, of which ``chosen`` was preferred.

    Each is a string or a list of chat messages {role, content}; a response in messages is one assistant message. The
    prompt of a pair without one is "". ``columns`` holds what else the row had.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    columns: Mapping[str, Any] = field(default_factory=dict)


def read_pairs(path: str | Path, where: Mapping[str, str] | None = None, **wanted: str) -> list[PreferencePair]:
    """Preference pairs from anything that `read_rows` reads, in order.

    A row has `chosen`, `rejected` and, where there is one, `prompt`: strings, or lists of chat messages, or a prompt in
    messages with responses in strings. Without `prompt` both sides hold the whole, and what they begin with alike is
    the prompt: whole messages, or text up to the last line break or before the last space. Pairs whose two sides are
    equal are left out with a warning.

    Args:
        path: a file, a folder or a data set's name.
        where, wanted: keep the rows whose columns have these values, compared as strings:
            read_pairs(path, objective="agreeableness").

    Raises:
        InvalidArgumentError: a row that is no such pair, by file and row number (counted from 1), or nothing left.
    """
    rows = list(enumerate(read_rows(path), start=1))
    if not rows:
        raise InvalidArgumentError(f"{path} is empty: write rows with chosen and rejected")
    asked = {**(where or {}), **wanted}
    kept = [(number, row) for number, row in rows if all(_as_text(row.get(name)) == asked[name] for name in asked)]
    if not kept:
        raise InvalidArgumentError(f"{path}: no row has {_listed(asked)}: {_values(asked, [row for _, row in rows])}")
    pairs = [_pair(row, f"{path}, row {number}") for number, row in kept]
    telling = [pair for pair in pairs if pair.chosen != pair.rejected]
    if not telling:
        raise InvalidArgumentError(f"{path}: chosen equals rejected in every pair: nothing can be learned from them")
    if len(telling) < len(pairs):
        equal = len(pairs) - len(telling)
        warnings.warn(f"{path}: chosen equals rejected in {equal} of {len(pairs)} pairs, left out", stacklevel=2)
    return telling


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _listed(asked: Mapping[str, str]) -> str:
    return " and ".join(f"{name} = {value}" for name, value in asked.items())


def _values(asked: Mapping[str, str], rows: Rows) -> str:
    """What the columns asked for do hold, to choose from."""
    found = []
    for name in asked:
        held = sorted({_as_text(row[name]) for row in rows if name in row})
        shown = ", ".join(held[:10]) + (", …" if len(held) > 10 else "")
        found.append(f"{name} is one of {shown}" if held else f"there is no column {name}")
    return "; ".join(found)


def _pair(row: Mapping[str, Any], where: str) -> PreferencePair:
    chosen, rejected = (_side(row.get(side), f"{where}: {side}") for side in SIDES)
    columns = {name: value for name, value in row.items() if name not in ("prompt", *SIDES)}
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise InvalidArgumentError(f"{where}: one response is a string, the other messages: write both in one format")
    if row.get("prompt") is None or _is_repeated(row["prompt"], chosen):
        prompt, chosen, rejected = _implicit(chosen, rejected, where)
    else:
        prompt = _prompt(row["prompt"], f"{where}: prompt")
    if isinstance(prompt, str) and not isinstance(chosen, str):
        raise InvalidArgumentError(f"{where}: the prompt is a string, the responses are messages: write it as messages")
    for side, response in zip(SIDES, (chosen, rejected), strict=True):
        _check_response(response, f"{where}: {side}")
    return PreferencePair(prompt, chosen, rejected, columns)


def _is_repeated(prompt: Any, chosen: Text) -> bool:
    """A prompt in text beside whole conversations that hold it, as UltraFeedback's rows have it, says nothing new."""
    return isinstance(chosen, list) and any(message["content"] == prompt for message in chosen[:-1])


def _prompt(value: Any, where: str) -> Text:
    """A prompt may be an empty string, as that of a row that has none."""
    return value if value == "" else _side(value, where)


def _side(value: Any, where: str) -> Text:
    if value is None:
        raise InvalidArgumentError(f"{where} is missing or null: a pair needs chosen and rejected")
    if isinstance(value, str):
        _check_text(value, where)
        return value
    if not isinstance(value, list):
        raise InvalidArgumentError(f"{where} is of type {type(value).__name__}: write text or a list of chat messages")
    if not value:
        raise InvalidArgumentError(f"{where} is an empty list: write at least one chat message, or leave the row out")
    for message in value:
        if not _is_message(message):
            raise InvalidArgumentError(
                f"{where} holds {message!r:.80}: a chat message is {{role: text, content: text}}"
            )
        _check_text(message["content"], where)
    # a table's missing keys come back as None, which templates would take for given
    return [{key: held for key, held in message.items() if held is not None} for message in value]


def _is_message(value: Any) -> TypeGuard[Message]:
    return isinstance(value, dict) and all(isinstance(value.get(key), str) for key in ("role", "content"))


def _check_text(text: str, where: str) -> None:
    if not text:
        raise InvalidArgumentError(f"{where} is empty: write its text, or leave the row out")
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{where} holds half of a surrogate pair: repair its \\u escapes") from None


def _check_response(response: Text, where: str) -> None:
    if isinstance(response, str):
        return
    if len(response) != 1 or response[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in response)
        raise InvalidArgumentError(
            f"{where} is messages of {roles} after the prompt: a response is one assistant message; move the turns "
            "before it into prompt, or leave the row out"
        )


def _implicit(chosen: Text, rejected: Text, where: str) -> tuple[Text, Text, Text]:
    """What both begin with as the prompt, and what is left of each, never nothing."""
    if isinstance(chosen, str) and isinstance(rejected, str):
        cut = _boundary(chosen, rejected)
        return chosen[:cut], chosen[cut:], rejected[cut:]
    cut = shared_length(chosen[:-1], rejected[:-1])
    if not cut:
        raise InvalidArgumentError(f"{where}: chosen and rejected share no first message: give the row a prompt")
    return chosen[:cut], chosen[cut:], rejected[cut:]


def _boundary(chosen: str, rejected: str) -> int:
    """Where the common prefix ends, cut back so that no word and no token of a response is cut in two.

    A space goes with the word after it, as byte-level vocabularies have it; a line break stays with the prompt.
    """
    for cut in range(min(shared_length(chosen, rejected), len(chosen) - 1, len(rejected) - 1), 0, -1):
        if chosen[cut - 1].isspace() and chosen[cut - 1] != " ":
            return cut
        if chosen[cut].isspace() and rejected[cut].isspace():
            return cut
    return 0


def shared_length(first: Sequence[Any], second: Sequence[Any]) -> int:
    """How many items two sequences have in common at their beginning."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)
