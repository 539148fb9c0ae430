"""What ends a row before its length does: token ids, sequences of them, strings."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from numbers import Integral
from typing import Any

from torch import Tensor

from ..errors import InvalidArgumentError
from .text import PromptEncoder

Stop = str | Sequence[str | Sequence[int]] | None
FORM = "pass a string, or a list of strings and token-id sequences: ['\\n\\n', [id, id, …], …]"


def token_ids(name: str, value: Any) -> list[int]:
    """An id, several, or None -> a list of them; ``name`` is what an error calls them."""
    if value is None:
        return []
    if isinstance(value, Tensor):
        value = value.tolist()
    ids = [value] if not isinstance(value, Iterable) else list(value)
    if any(isinstance(token, bool) or not isinstance(token, Integral) for token in ids):
        raise InvalidArgumentError(f"{name} is {value!r}: pass a token id or a list of them")
    return [int(token) for token in ids]


def read_stops(stop: Stop, tokenizer: Any) -> tuple[tuple[tuple[int, ...], ...], tuple[str, ...]]:
    """-> the token sequences among ``stop``, and the strings. A special token's text is that token, since decoded texts
    are without it."""
    if isinstance(stop, str):
        stop = [stop]
    if stop is None:
        return (), ()
    if not isinstance(stop, Sequence) or any(isinstance(entry, int) for entry in stop):
        raise InvalidArgumentError(f"stop is {stop!r}: {FORM}")
    texts = [entry for entry in stop if isinstance(entry, str)]
    sequences = [tuple(token_ids("stop", entry)) for entry in stop if not isinstance(entry, str)]
    if not all(sequences) or not all(texts):
        raise InvalidArgumentError("stop holds an empty sequence: each needs at least one token id or character")
    if texts and tokenizer is None:
        raise InvalidArgumentError(
            "stop holds a string and the decoder has no tokenizer to read texts with: give it one (tokenizer=…), or "
            "pass token-id sequences"
        )
    specials = PromptEncoder(tokenizer).specials if texts else set()
    for text in texts:
        named = next((token for token in specials if token in text), None)
        if text in specials:
            sequences.append((int(tokenizer.convert_tokens_to_ids(text)),))
        elif named is not None:
            raise InvalidArgumentError(
                f"stop holds {text!r}, and texts are without special tokens such as {named!r}: give that by itself"
            )
    return tuple(sequences), tuple(text for text in texts if text not in specials)
