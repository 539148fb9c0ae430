"""What ``model.generate`` hands on beside input_ids: what it derives itself, what cannot be decoded, and what goes to
the model's forward pass as it is."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from threading import get_ident
from typing import Any

import torch
from torch import Tensor, nn
from transformers import GenerationMixin
from transformers.generation import utils as generation_utils

from .errors import UnsupportedGenerationError

# What ``generate`` makes of input_ids and its settings, or what says nothing about the text.
DERIVED = {
    *("attention_mask", "position_ids", "cache_position", "past_key_values", "use_cache", "logits_to_keep"),
    *("output_attentions", "output_hidden_states", "output_router_logits", "return_dict", "labels"),
}
# What is read with the prompt alone; transformers lists it in its later versions.
OF_THE_PROMPT = getattr(
    generation_utils,
    "MULTIMODAL_INPUTS_TO_DROP_OUTSIDE_PREFILL",
    ("pixel_values", "pixel_values_videos", "pixel_mask", "pixel_attention_mask", "image_sizes", "input_features"),
)
# What transformers makes longer or shorter with the text.
FOLLOWS_TEXT = {"token_type_ids", "mm_token_type_ids", "inputs_embeds", *OF_THE_PROMPT}


def forwarded(model: nn.Module, input_ids: Tensor, given: Mapping[str, Any]) -> dict[str, Any]:
    """The keywords that ``model``'s forward pass takes unchanged in every step, as transformers hands them on.

    Raises:
        UnsupportedGenerationError: for what would change the text that the model sees.
    """
    _check_cache(given.get("past_key_values"))
    _check_positions(given.get("position_ids"), given.get("attention_mask"), input_ids)
    extra = {name: value for name, value in given.items() if name not in DERIVED and value is not None}
    for name in extra:
        if name in FOLLOWS_TEXT:
            raise UnsupportedGenerationError(f"{name} was passed: guided decoding reads input_ids alone; leave it out")
    prepares = getattr(type(model), "prepare_inputs_for_generation", None)
    if extra and prepares is not GenerationMixin.prepare_inputs_for_generation:
        raise UnsupportedGenerationError(
            f"{next(iter(extra))} was passed, and {type(model).__name__} prepares its inputs in a way of its own, "
            "which guided decoding does not follow; leave it out"
        )
    return extra


def _check_cache(cache: Any) -> None:
    length = cache.get_seq_length() if hasattr(cache, "get_seq_length") else 0
    if int(length):
        raise UnsupportedGenerationError(
            f"past_key_values that hold {int(length)} tokens were passed: guided decoding keeps caches of its own; "
            "pass the whole text as input_ids and leave past_key_values out"
        )


def _check_positions(positions: Tensor | None, mask: Tensor | None, input_ids: Tensor) -> None:
    """Positions other than those that the mask says, for all axes of those that have several."""
    if positions is None:
        return
    mask = torch.ones_like(input_ids) if mask is None else mask.to(input_ids.device)
    expected = mask.long().cumsum(-1) - 1
    positions = positions.to(input_ids.device)
    if positions.shape[-1] != input_ids.shape[1] or bool(((positions != expected) & (mask != 0)).any()):
        raise UnsupportedGenerationError(
            "position_ids other than the tokens' places in the unpadded text were passed: guided decoding counts them "
            "itself; leave them out"
        )


@contextmanager
def handed_on(model: nn.Module, extra: Mapping[str, Any]) -> Iterator[None]:
    """``extra`` reaches the forward passes of ``model``, and of adapters on it, that this thread runs inside the
    block."""
    if not extra:
        yield
        return
    own = get_ident()

    def add(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> tuple[Any, Any] | None:
        return (args, {**kwargs, **extra}) if get_ident() == own else None

    handle = model.register_forward_pre_hook(add, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()
