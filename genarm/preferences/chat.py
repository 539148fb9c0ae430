"""A conversation through a tokenizer's chat template: the text before the response, and the response's own.

With it go the tokenizer that pairs are encoded with, the base's, and which tokens end a turn beside its EOS.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from transformers import GenerationConfig

from ..errors import InvalidArgumentError, LoadingError
from ..models.files import model_source
from ..models.loading import full_model, load_tokenizer
from .texts import Message, Text, loads, shared_length

NO_TEMPLATE = (
    "the pairs are chat messages and the tokenizer has no chat template: use the tokenizer of a chat model, put a "
    "chat_template.jinja beside it, or write prompts as text with --prompt-template"
)


@dataclass(frozen=True, slots=True)
class Rendered:
    """A prompt as the template writes it, up to where the assistant begins to speak, and what it writes after that."""

    prompt: str
    response: str


def render(tokenizer: Any, prompt: list[Message], response: Text, options: Mapping[str, Any] | None = None) -> Rendered:
    """Apply the chat template to a prompt, and to the prompt with its response.

    ``options`` are keywords of the template: tools, and what else a row's chat_template_kwargs hold.

    The prompt is rendered as for generation. Where the whole does not begin with that (a template that opens a thought
    for the model to continue, but not before a response that has none), it ends where the two part.

    Raises:
        InvalidArgumentError: no chat template, or one that fails, or that has no use for tools, or that rewrites the
            prompt's turns when a response follows them, so that there is no prompt to speak of.
    """
    given = dict(options or {})
    answer = [{"role": "assistant", "content": response}] if isinstance(response, str) else response
    prompt, answer = _readable_arguments(tokenizer, prompt, answer, given)
    before = _apply(tokenizer, prompt, add_generation_prompt=True, **given)
    whole = _apply(tokenizer, [*prompt, *answer], add_generation_prompt=False, **given)
    without = {**given, "tools": None}
    if given.get("tools") and before == _apply(tokenizer, prompt, add_generation_prompt=True, **without):
        raise InvalidArgumentError(
            "the chat template has no use for the row's tools, which would not be trained on: use the template of a "
            "model that calls tools, or pass them by with --map tools="
        )
    if whole.startswith(before):
        return Rendered(before, whole[len(before) :])
    turns = _apply(tokenizer, prompt, add_generation_prompt=False, **given).rstrip()
    cut = min(shared_length(before, whole), whole.rfind(answer[-1]["content"].strip()))
    if cut < len(turns) or not whole.startswith(turns):
        raise InvalidArgumentError(
            "the chat template writes the prompt or the response otherwise once the one follows the other, so that the "
            "response's tokens cannot be told apart: use a template that leaves turns as they are, or pairs of strings"
        )
    return Rendered(whole[:cut], whole[cut:])


def _readable_arguments(
    tokenizer: Any, prompt: list[Message], answer: list[Message], options: Mapping[str, Any]
) -> tuple[list[Message], list[Message]]:
    """Tool calls whose arguments are JSON in a string, as objects, where the template would quote them once more."""
    quoted = [
        json.dumps(arguments, ensure_ascii=False)
        for message in (*prompt, *answer)
        for call in message.get("tool_calls") or ()
        if isinstance(arguments := call.get("function", call).get("arguments"), str)
    ]
    if not quoted:
        return prompt, answer
    text = _apply(tokenizer, [*prompt, *answer], add_generation_prompt=False, **options)
    if not any(each in text for each in quoted):
        return prompt, answer
    return [_parsed(message) for message in prompt], [_parsed(message) for message in answer]


def _parsed(message: Message) -> Message:
    """A message whose tool calls' arguments are objects."""
    if not message.get("tool_calls"):
        return message
    calls = []
    for call in message["tool_calls"]:
        function = dict(call.get("function", call))
        function["arguments"] = loads(function.get("arguments"), "a tool call's arguments")
        calls.append({**call, "function": function} if "function" in call else function)
    return {**message, "tool_calls": calls}


def _apply(tokenizer: Any, messages: list[Message], add_generation_prompt: bool, **options: Any) -> str:
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidArgumentError(NO_TEMPLATE)
    try:
        text: str = tokenizer.apply_chat_template(
            messages, tokenize=False, add_generation_prompt=add_generation_prompt, **options
        )
    except Exception as error:  # templates raise what they like
        roles = ", ".join(message["role"] for message in messages)
        raise InvalidArgumentError(
            f"the chat template fails on messages of {roles} ({error}): write the turns it knows, or repair it"
        ) from error
    return text


def reply_start(tokenizer: Any) -> str:
    """What the chat template writes before the assistant's reply to a user's turn, and where that is nothing, behind
    the turn; "" where there is no template, or one that fails on such a turn."""
    turn = [{"role": "user", "content": "?!"}]
    try:
        without, whole = (_apply(tokenizer, turn, add_generation_prompt=asked) for asked in (False, True))
    except InvalidArgumentError:
        return ""
    behind = whole.removeprefix(without) if whole.startswith(without) else ""
    return behind or whole.rpartition(turn[0]["content"])[2]


def turn_ends(tokenizer: Any) -> list[str]:
    """The other tokens that generation from the tokenizer's model stops at, such as Llama 3's <|eot_id|>.

    They are in the generation_config.json beside the tokenizer; none without one.
    """
    if not tokenizer.name_or_path:  # made in memory
        return []
    try:
        config = GenerationConfig.from_pretrained(model_source(full_model(tokenizer.name_or_path)))
    except (OSError, ValueError):
        return []
    ids = config.eos_token_id
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return [tokenizer.decode([number]) for number in listed if number != tokenizer.eos_token_id]


def pair_tokenizer(base: str, trust_remote_code: bool = False) -> Any:
    """The tokenizer of ``base`` (a folder or hub id), with a padding token: its own, or its end of sequence.

    Raises:
        LoadingError: there is none.
        InvalidArgumentError: it has no end-of-sequence token.
    """
    tokenizer = load_tokenizer(base, trust_remote_code)
    if tokenizer is None:
        model_source(base)  # which says so where it is the model that is missing
        raise LoadingError(f"{base}: has no tokenizer, and texts must become ids: save one beside the model")
    if tokenizer.eos_token_id is None:
        raise InvalidArgumentError(
            f"{base}: its tokenizer has no end-of-sequence token, which every response ends in: set eos_token"
        )
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token
    tokenizer.padding_side = "right"
    return tokenizer
