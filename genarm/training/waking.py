"""From which of a prompt's tokens on an adapter is trained awake."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from ..models.activation import Activation, read_activation
from ..models.files import adapter_folder, read_json
from ..preferences.chat import reply_start
from ..request.text import PromptEncoder
from .settings import TrainingSettings


def activation_of(
    settings: TrainingSettings, tokenizer: Any, prompts: Sequence[Sequence[int]]
) -> tuple[Activation, str]:
    """That of the adapter that training goes on with; else the tokens that the chat template writes before a reply,
    where every prompt ends in them, so that PEFT's aLoRA computes the same; else every prompt's last token. And a note.

    Raises:
        InvalidArgumentError: a prompt that would not wake the adapter that training goes on with.
    """
    if settings.continue_from is not None:
        folder = adapter_folder(settings.continue_from)
        found = read_activation(folder, read_json(folder / "adapter_config.json")) or Activation()
        for prompt in prompts:
            found.awake(prompt)
        return found, f"the adapter to continue from sleeps on prompts up to {found}, and goes on so"
    text = reply_start(tokenizer)
    tokens = PromptEncoder(tokenizer).ids(text, split_special_tokens=False) if text else []
    if tokens and all(list(prompt[-len(tokens) :]) == tokens for prompt in prompts):
        found = Activation(tuple(tokens))
        return found, f"the adapter sleeps on prompts up to {text!r}, which all of them end in"
    return Activation(), "the adapter sleeps on prompts up to their last token"
