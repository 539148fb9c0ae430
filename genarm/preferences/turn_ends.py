"""Which tokens end a turn of a model, beside its tokenizer's EOS."""

from __future__ import annotations

from typing import Any

from transformers import GenerationConfig

from ..models.files import model_source


def turn_ends(tokenizer: Any) -> list[str]:
    """The other tokens that generation from the tokenizer's model stops at, such as Llama 3's <|eot_id|>.

    They are in the generation_config.json beside the tokenizer; none without one.
    """
    if not tokenizer.name_or_path:  # made in memory
        return []
    try:
        config = GenerationConfig.from_pretrained(model_source(tokenizer.name_or_path))
    except (OSError, ValueError):
        return []
    ids = config.eos_token_id
    listed = ids if isinstance(ids, list) else [] if ids is None else [ids]
    return [tokenizer.decode([number]) for number in listed if number != tokenizer.eos_token_id]
