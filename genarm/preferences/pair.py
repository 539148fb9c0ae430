"""One row as a preference pair: its prompt, two responses, and what its chat template is given beside them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from ..errors import InvalidArgumentError
from .formats import SIDES, SYSTEMS, published
from .implicit import is_marked, part
from .reading import PairReading
from .texts import Text, from_json, loads, prompt_of, side

OPTIONS = ("tools", "chat_template_kwargs")
MEDIA = ("image", "images", "video", "videos", "audio", "audios")
# What rendering itself decides.
SETTLED = (
    "conversation",
    "tokenize",
    "add_generation_prompt",
    "continue_final_message",
    "return_dict",
    "return_tensors",
)


@dataclass(frozen=True, slots=True)
class PreferencePair:
    """Two responses to one prompt, of which ``chosen`` was preferred.

    Each is a string or a list of chat messages {role, content}; a response in messages is one assistant message. The
    prompt of a pair without one is "". ``columns`` holds what else the row had, and ``options`` what the chat template
    is given beside the messages: tools, and the row's chat_template_kwargs. ``source`` names its file and row.
    """

    prompt: Text
    chosen: Text
    rejected: Text
    columns: Mapping[str, Any] = field(default_factory=dict)
    options: Mapping[str, Any] = field(default_factory=dict)
    source: str = field(default="", compare=False)


# Where a prompt ended: it had a column of its own, a mark stood before the replies, or nothing but shared lines told.
Origin = Literal["column", "mark", "lines"]


def pair_of(row: Mapping[str, Any], reading: PairReading) -> tuple[PreferencePair, Origin]:
    """The pair, and what told where its prompt ends.

    Raises:
        InvalidArgumentError: a row that is no pair, or holds what would not be read; without its number.
        LeftOutError: one that teaches nothing.
    """
    _refuse_media(row)
    found = published(row, reading)
    chosen, rejected = (side(found.get(name), name) for name in SIDES)
    if isinstance(chosen, str) != isinstance(rejected, str):
        raise InvalidArgumentError("one response is a string, the other messages: write both in one format")
    prompt: Any = from_json(found.get("prompt"), "prompt")
    origin: Origin = "column"
    if prompt is None or _is_repeated(prompt, chosen) or (prompt == "" and is_marked(chosen, rejected)):
        parted = part(chosen, rejected, reading.response_marker)
        prompt, chosen, rejected = parted.prompt, parted.chosen, parted.rejected
        origin = "lines" if parted.by_lines else "mark"
    else:
        prompt = prompt_of(prompt)
        chosen, rejected = _without_prompt(prompt, chosen, rejected)
    prompt = _as_chat(prompt, found, reading)
    if isinstance(prompt, str) and not isinstance(chosen, str):
        raise InvalidArgumentError("the prompt is a string, the responses are messages: write it as messages")
    for name, response in zip(SIDES, (chosen, rejected), strict=True):
        _check_response(response, name)
    columns = {name: value for name, value in found.items() if name not in ("prompt", *SIDES, *OPTIONS)}
    return PreferencePair(prompt, chosen, rejected, columns, _options(found, prompt)), origin


def _refuse_media(row: Mapping[str, Any]) -> None:
    for name in MEDIA:
        if row.get(name):
            raise InvalidArgumentError(f"{name} is not empty, and only text is read: leave the row out")


def _is_repeated(prompt: Any, chosen: Text) -> bool:
    """A prompt in text beside whole conversations that hold it, as UltraFeedback's rows have it, says nothing new."""
    if not (isinstance(prompt, str) and isinstance(chosen, list)):
        return False
    return any(message["content"].strip() == prompt.strip() for message in chosen[:-1])


def _without_prompt(prompt: Text, chosen: Text, rejected: Text) -> tuple[Text, Text]:
    """Responses in messages that begin with the prompt's own are whole conversations."""
    if isinstance(prompt, str) or isinstance(chosen, str) or isinstance(rejected, str):
        return chosen, rejected
    cut = len(prompt)
    whole = all(len(text) > cut and text[:cut] == prompt for text in (chosen, rejected))
    return (chosen[cut:], rejected[cut:]) if whole else (chosen, rejected)


def _as_chat(prompt: Text, row: Mapping[str, Any], reading: PairReading) -> Text:
    """A prompt with its row's system message; one in text is a user's turn under a system message or ``chat``."""
    if reading.prompt_template is not None:
        return prompt
    name, system = next(((name, row[name]) for name in SYSTEMS if row.get(name)), ("", ""))
    if not isinstance(system, str):
        raise InvalidArgumentError(
            f"{name} is of type {type(system).__name__}: write text, or --map {name}= to pass it by"
        )
    if isinstance(prompt, str):
        if not (system or reading.chat):
            return prompt
        if not prompt:
            what = f"{name} cannot be read" if system else "there is no user's turn to write"
            raise InvalidArgumentError(
                f"{what} where there is no prompt: name one with --prompt-column"
                + (f", or pass {name} by with --map {name}=" if system else "")
            )
        prompt = [{"role": "user", "content": prompt}]
    if not system or prompt[0] == {"role": "system", "content": system}:
        return prompt
    if prompt[0]["role"] == "system":
        raise InvalidArgumentError(f"{name} says other than the prompt's own system message: leave one of them out")
    return [{"role": "system", "content": system}, *prompt]


def _check_response(response: Text, name: str) -> None:
    if isinstance(response, str):
        return
    if len(response) != 1 or response[0]["role"] != "assistant":
        roles = ", ".join(message["role"] for message in response)
        raise InvalidArgumentError(
            f"{name} is messages of {roles} after the prompt: a response is one assistant message; move the turns "
            "before it into prompt, or leave the row out"
        )


def _options(row: Mapping[str, Any], prompt: Text) -> dict[str, Any]:
    """Keywords of the chat template: the row's tools, and its chat_template_kwargs."""
    tools, chosen = (loads(row.get(name), name) for name in OPTIONS)
    if not (tools or chosen):
        return {}
    if isinstance(prompt, str):
        name = OPTIONS[0] if tools else OPTIONS[1]
        raise InvalidArgumentError(
            f"{name} reaches no chat template where prompt and responses are strings: write messages, or read the "
            "strings as turns with --chat"
        )
    if tools and not isinstance(tools, list):
        raise InvalidArgumentError(f"tools is of type {type(tools).__name__}: write a list of JSON schemas")
    if chosen and not isinstance(chosen, Mapping):
        raise InvalidArgumentError(f"chat_template_kwargs is of type {type(chosen).__name__}: write an object")
    for name in chosen or ():
        if name in SETTLED:
            raise InvalidArgumentError(f"chat_template_kwargs sets {name}, which is settled here: leave it out")
    return {**({"tools": tools} if tools else {}), **(chosen or {})}
