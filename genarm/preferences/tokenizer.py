"""The tokenizer that preference pairs are encoded with: the base's."""

from __future__ import annotations

from typing import Any

from ..errors import InvalidArgumentError, LoadingError
from ..loading import load_tokenizer
from ..models.files import model_source


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
