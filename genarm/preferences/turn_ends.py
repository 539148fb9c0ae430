"""Which tokens end a turn of a model, beside its tokenizer's EOS."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from ..models.files import model_source


def turn_ends(base: str, tokenizer: Any) -> list[str]:
    """The other tokens that generation from ``base`` (a folder or hub id) stops at, such as Llama 3's <|eot_id|>.

    They are in its generation_config.json; none without one.
    """
    try:
        config = GenerationConfig.from_pretrained(model_source(base))
    except OSError:
        return []
    ids = config.eos_token_id
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return [tokenizer.decode([number]) for number in listed if number != tokenizer.eos_token_id]
