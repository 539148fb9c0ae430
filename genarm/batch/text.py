"""Prompts into token ids and new tokens back into text, with the base model's tokenizer."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..errors import InvalidArgumentError

CONTEXT = 8


def encode(tokenizer: Any, prompts: Sequence[str], chat: bool) -> list[list[int]]:
    """The ids of each prompt: as the tokenizer encodes text, or under ``chat`` as one user turn in its chat template.

    The template writes its own BOS, so nothing is added to what it renders.

    Raises:
        InvalidArgumentError: there is no tokenizer, or no chat template, or the template refuses a single user turn.
    """
    if tokenizer is None:
        raise InvalidArgumentError("the base model has no tokenizer beside it: put its tokenizer.json into the folder")
    if not prompts:
        return []
    if not chat:
        ids: list[list[int]] = tokenizer(list(prompts))["input_ids"]
        return ids
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidArgumentError(
            "--chat: the base model's tokenizer has no chat template: leave --chat out, or put a chat_template.jinja "
            "into its folder"
        )
    return [_chat(tokenizer, prompt) for prompt in prompts]


def continuation(tokenizer: Any, prompt: list[int], tokens: list[int]) -> str:
    """The text that ``tokens`` add to the prompt, special tokens left out.

    They are decoded after the prompt's last tokens: alone, SentencePiece would drop the space they start with.
    """
    before = _decode(tokenizer, prompt[-CONTEXT:])
    whole = _decode(tokenizer, [*prompt[-CONTEXT:], *tokens])
    return whole[len(before) :] if whole.startswith(before) else _decode(tokenizer, tokens)


def _chat(tokenizer: Any, prompt: str) -> list[int]:
    turn = [{"role": "user", "content": prompt}]
    try:
        encoded = tokenizer.apply_chat_template(turn, add_generation_prompt=True, tokenize=True, return_dict=True)
    except Exception as error:  # templates raise what they like
        raise InvalidArgumentError(
            f"--chat: the chat template fails on a single user turn ({error}): repair it, or leave --chat out"
        ) from error
    ids: list[int] = encoded["input_ids"]
    return ids


def _decode(tokenizer: Any, ids: list[int]) -> str:
    text: str = tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    return text
