"""The texts of a row: strings or chat messages, as they are stored, checked and brought to one form."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import InvalidArgumentError

Message = dict[str, Any]
Text = str | list[Message]

# Conversations as ShareGPT writes them: {"from": "human", "value": "..."}.
SPEAKERS = {"human": "user", "gpt": "assistant", "chatgpt": "assistant", "bot": "assistant", "model": "assistant"}


def side(value: Any, name: str) -> Text:
    """A response, or a conversation that ends in one: a string, or messages {role, content}.

    Messages may be stored as JSON in a string, as one message alone, in ShareGPT's form, or with their text in parts.

    Raises:
        InvalidArgumentError: anything else, by the name of its column.
    """
    value = from_json(value, name)
    if value is None:
        raise InvalidArgumentError(f"{name} is missing or null: a pair needs chosen and rejected")
    if isinstance(value, str):
        if not value:
            raise InvalidArgumentError(f"{name} is empty: write its text, or leave the row out")
        return checked(value, name)
    if isinstance(value, Mapping):
        value = [value]
    if not isinstance(value, list):
        raise InvalidArgumentError(f"{name} is of type {type(value).__name__}: write text or a list of chat messages")
    if not value:
        raise InvalidArgumentError(f"{name} is an empty list: write at least one chat message, or leave the row out")
    if all(isinstance(item, str) for item in value):
        raise InvalidArgumentError(
            f"{name} is a list of {len(value)} texts, and a pair has one of them: write a row per pair, as "
            "`jq -c '{prompt, chosen: .chosen[0], rejected: .rejected[]}'` does"
        )
    return [message(item, name) for item in value]


def prompt_of(value: Any, name: str = "prompt") -> Text:
    """A prompt is what a side is, or an empty string, as that of a row that has none."""
    return "" if value == "" else side(value, name)


def from_json(value: Any, name: str) -> Any:
    """What a string holds where it is JSON of chat messages, as tables often store them; else the value itself."""
    if not isinstance(value, str) or value.lstrip()[:1] not in ("[", "{"):
        return value
    try:
        found = json.loads(value)
    except (ValueError, RecursionError):
        if value.lstrip().startswith(("[{'", "{'role'", "{'content'")):
            raise InvalidArgumentError(
                f"{name} holds messages as Python prints them, which is not JSON: write them with json.dumps"
            ) from None
        return value
    items = found if isinstance(found, list) else [found]
    spoken = bool(items) and all(isinstance(item, dict) and ("role" in item or "from" in item) for item in items)
    return found if spoken else value


def loads(value: Any, name: str) -> Any:
    """A value that may be stored as JSON in a string."""
    if not isinstance(value, str) or not value.strip():
        return value
    try:
        return json.loads(value)
    except (ValueError, RecursionError) as error:
        raise InvalidArgumentError(f"{name} is text and not JSON ({error}): write it with json.dumps") from None


def message(value: Any, name: str) -> Message:
    """One chat message with a role and a content in text. What is null in it is left out, as if it were not there.

    An assistant that calls tools, and a system or tool message, may say nothing.
    """
    if not isinstance(value, Mapping):
        raise InvalidArgumentError(f"{name} holds {value!r:.80}: a chat message is {{role: text, content: text}}")
    found = {key: held for key, held in value.items() if held is not None}
    if "from" in found and "value" in found and "role" not in found:
        speaker = found.pop("from")
        found = {"role": SPEAKERS.get(speaker, speaker), "content": found.pop("value"), **found}
    role, content = found.get("role"), _joined(found.get("content"), name)
    may_be_silent = role in ("system", "developer", "tool") or bool(found.get("tool_calls"))
    if content is None and may_be_silent:
        content = ""
    if not isinstance(role, str) or not isinstance(content, str):
        raise InvalidArgumentError(f"{name} holds {value!r:.80}: a chat message is {{role: text, content: text}}")
    if not content and not may_be_silent:
        raise InvalidArgumentError(f"{name} is empty in a message of {role}: write its text, or leave the row out")
    return {**found, "role": role, "content": checked(content, name)}


def _joined(content: Any, name: str) -> Any:
    """Content in parts, [{"type": "text", "text": ...}], as one text; anything but text in them is refused."""
    if not isinstance(content, list) or not content or not all(isinstance(part, Mapping) for part in content):
        return content
    for part in content:
        if part.get("type") != "text" or not isinstance(part.get("text"), str):
            raise InvalidArgumentError(
                f"{name} holds a part of type {part.get('type')!r}: only text can be trained on; leave the row out"
            )
    return "".join(part["text"] for part in content)


def checked(text: str, name: str) -> str:
    """The text, if it can be written as UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise InvalidArgumentError(f"{name} holds half of a surrogate pair: repair its \\u escapes") from None
    return text


def shared_length(first: Any, second: Any) -> int:
    """How many items two sequences have in common at their beginning."""
    shorter = min(len(first), len(second))
    return next((place for place in range(shorter) if first[place] != second[place]), shorter)
