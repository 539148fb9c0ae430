"""Responses to be scored, in text or as ids -> the tokens that stand behind each prompt."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .detokenize import CONTEXT, Decode, new_text
from .facts import ModelFacts
from .inputs import padding_mask
from .prompts import token_rows
from .text import PromptEncoder

Responses = str | Sequence[str] | Tensor | Sequence[Tensor] | Sequence[Sequence[int]]


def count_responses(responses: Responses) -> int:
    """How many there are."""
    if isinstance(responses, str):
        return 1
    if not (isinstance(responses, Sequence) or hasattr(responses, "__array__")) or not len(responses):
        raise InvalidArgumentError(
            f"responses is {responses!r}: pass a text, a list of texts, or a list of token ids for each prompt"
        )
    return len(responses)


def read_responses(
    responses: Responses, prompts: Sequence[Tensor], facts: ModelFacts, decode: Decode | None
) -> list[list[int]]:
    """Ids of each response. A text becomes the tokens that spell it behind its prompt; a tensor [B, n] may be padded as
    prompts may be."""
    if hasattr(responses, "__array__"):  # numpy's too
        responses = torch.as_tensor(responses)
    rows: list[Any] = [responses] if isinstance(responses, str) else list(responses)
    if (mask := padding_mask(facts, responses)) is not None:
        rows = [row[kept] for row, kept in zip(rows, mask, strict=True)]
    if any(isinstance(row, str) for row in rows):
        if decode is None:
            raise InvalidArgumentError(
                "responses is text and the decoder has no tokenizer: give it one (tokenizer=…), or pass token ids"
            )
        encoder = PromptEncoder(facts.tokenizer)
        rows = [
            _behind(encoder, decode, prompt.tolist(), row) if isinstance(row, str) else row
            for prompt, row in zip(prompts, rows, strict=True)
        ]
    return [row.tolist() for row in token_rows(rows, "responses")]


def _behind(encoder: PromptEncoder, decode: Decode, prompt: list[int], text: str) -> list[int]:
    """Ids of a text by itself, or as they are behind the prompt's last words, whichever spell it there.

    A tokenizer may begin every text with a space of its own, which a response in the middle of one does not have.
    Special tokens, such as EOS at the end, spell nothing: what stands before them is compared.
    """
    places = [place for token in encoder.specials if (place := text.find(token)) >= 0]
    if places and (first := min(places)):
        return _behind(encoder, decode, prompt, text[:first]) + encoder.ids(text[first:])
    alone = encoder.ids(text)
    if new_text(decode, prompt, alone) == text:
        return alone
    before = decode(prompt[-CONTEXT:])
    start, whole = encoder.ids(before), encoder.ids(before + text)
    behind = whole[len(start) :]
    fits = whole[: len(start)] == start and new_text(decode, prompt, behind) == text
    return behind if fits else alone
