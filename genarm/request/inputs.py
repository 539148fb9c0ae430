"""Prompts as callers give them, in text, as chat messages, as a tokenizer's output or as ids -> rows of ids."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import GenARMError, InvalidArgumentError
from .facts import ModelFacts
from .prompts import IdInput, Prompts, on_host, read_prompts
from .text import ChatMessage, PromptEncoder

Text = str | Sequence[ChatMessage]
PromptInput = Text | Sequence[Text] | Mapping[str, Any] | IdInput

# What a tokenizer may return beside ids and mask that no model needs.
IGNORED = {"token_type_ids", "special_tokens_mask", "offset_mapping", "length"}


def read_inputs(
    facts: ModelFacts, given: PromptInput, attention_mask: Tensor | None, pad_id: int, what: str = "input_ids"
) -> tuple[Prompts, dict[int, str]]:
    """A batch of prompts in any form, and what is wrong with the text of which row."""
    if hasattr(given, "__array__") and not isinstance(given, Tensor):  # numpy's
        given = torch.as_tensor(given)
    errors: dict[int, str] = {}
    if isinstance(given, Mapping):
        given, attention_mask = _encoding(given, attention_mask, what)
    elif _is_text(given) or (isinstance(given, Sequence) and any(map(_is_text, given))):
        if attention_mask is not None:
            raise InvalidArgumentError("attention_mask came with prompts in text, which are not padded: leave it out")
        prompts = [given] if _is_text(given) else given
        given = _encoded(facts.tokenizer, prompts, what, errors)  # type: ignore[arg-type]
    ids: IdInput = on_host(given)  # type: ignore[arg-type]
    mask = padding_mask(facts, ids) if attention_mask is None else attention_mask
    return read_prompts(ids, mask, pad_id, facts.device, what), errors


def count_prompts(given: PromptInput) -> int:
    """How many prompts these are; 0 for what is none."""
    if isinstance(given, Mapping):
        ids = given.get("input_ids")
        return (
            1
            if isinstance(ids, Sequence) and ids and isinstance(ids[0], int)
            else count_prompts(() if ids is None else ids)
        )
    if _is_text(given):
        return 1
    return len(given) if isinstance(given, Sequence | Tensor) or hasattr(given, "__array__") else 0


def _is_text(prompt: object) -> bool:
    """Whether this is a text or a conversation."""
    return isinstance(prompt, str) or (
        isinstance(prompt, Sequence) and len(prompt) > 0 and all(isinstance(message, Mapping) for message in prompt)
    )


def _encoded(tokenizer: Any, prompts: Sequence[Any], what: str, errors: dict[int, str]) -> list[Any]:
    """The ids of each text and each conversation; what is ids already stays so."""
    if tokenizer is None:
        raise InvalidArgumentError(
            f"{what} is text and the decoder has no tokenizer: give it one (tokenizer=…), or pass token ids"
        )
    encoder = PromptEncoder(tokenizer)
    found: list[Any] = []
    for row, prompt in enumerate(prompts):
        try:
            if _is_text(prompt):
                prompt = encoder.text(prompt) if isinstance(prompt, str) else _conversation(encoder, prompt)
        except GenARMError as error:
            errors[row], prompt = str(error), []
        found.append(prompt)
    return found


def _conversation(encoder: PromptEncoder, messages: Sequence[Any]) -> list[int]:
    for message in messages:
        if not isinstance(message.get("role"), str) or "content" not in message:
            raise InvalidArgumentError(
                f"a prompt holds {{{', '.join(map(repr, message))}}}: a message is {{'role': …, 'content': …}}"
            )
    return encoder.chat(messages)


def _encoding(given: Mapping[str, Any], mask: Any, what: str) -> tuple[Any, Any]:
    """What a tokenizer returned (a BatchEncoding, or a dict like it) -> ids and mask."""
    if "input_ids" not in given:
        raise InvalidArgumentError(
            f"{what} is a dict of {', '.join(map(repr, given)) or 'nothing'}: pass what a tokenizer returns "
            "({'input_ids': …, 'attention_mask': …}), or messages in a list"
        )
    unread = [str(name) for name in given if name not in {"input_ids", "attention_mask", *IGNORED}]
    if unread:
        raise InvalidArgumentError(f"{what} holds {unread[0]!r}, which guided decoding does not read: leave it out")
    if mask is not None and given.get("attention_mask") is not None:
        raise InvalidArgumentError(f"attention_mask came beside the one in {what}: pass one of the two")
    ids, own = given["input_ids"], given.get("attention_mask")
    mask = own if mask is None else mask
    if isinstance(ids, Tensor) or hasattr(ids, "__array__"):
        return torch.as_tensor(ids), None if mask is None else torch.as_tensor(mask)
    if not isinstance(ids, Sequence):
        return ids, mask  # which is refused by its name
    if all(isinstance(token, int) for token in ids):  # of a single text
        ids, mask = [ids], None if mask is None else [mask]
    if mask is None:
        return ids, None
    if [len(row) for row in ids] != [len(row) for row in mask]:
        raise InvalidArgumentError(
            f"the attention_mask in {what} has other lengths than its input_ids: give both one shape"
        )
    rows = zip(ids, mask, strict=True)
    return [[token for token, kept in zip(*row, strict=True) if kept] for row in rows], None


def padding_mask(facts: ModelFacts, ids: object) -> Tensor | None:
    """The mask of a padded tensor that came without one: runs of the pad id at either end of a row are padding, where
    that id means nothing else (Hugging Face infers its mask much like this)."""
    other = {*facts.eos_ids, facts.bos_id}
    if facts.pad_id is None or facts.pad_id in other or not isinstance(ids, Tensor) or ids.dim() != 2:
        return None
    kept = (ids != facts.pad_id).int()
    return (kept.cumsum(1) > 0) & (kept.flip(1).cumsum(1).flip(1) > 0)
