"""Adapters that sleep on the prompt: from which of its tokens on they are awake.

Up to there the prompt's keys and values are the base's, so that one reading and one cache of it serve the base and
every such reward model on it. Source: Greenewald et al. 2025 (activated LoRA, arXiv 2504.12397).

In adapter_config.json PEFT's own ``alora_invocation_tokens`` says where. An adapter that wakes at the prompt's last
token, whichever that is, has NO_TOKENS there, which no prompt holds, and AT_LAST beside it, which PEFT warns of: PEFT
runs it as the base alone until it is told from where on (``alora_offsets``), and never as an ordinary LoRA.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from ..errors import InvalidArgumentError, LoadingError, UnsupportedAdapterError
from .files import read_json

TOKENS = "alora_invocation_tokens"
AT_LAST = "awake_from_last_prompt_token"
NO_TOKENS = (-1,)

# What `refuse_activated` says inside vLLM.
IN_VLLM = (
    "in vLLM here every reward model reads the prompt with its adapter on",
    "use GuidedDecoder (genarm generate), or an ordinary adapter",
)


@dataclass(frozen=True, slots=True)
class Activation:
    """From where on an adapter is awake: the prompt's last token, or, as PEFT's aLoRA has it, the first token of the
    last place where the prompt holds ``tokens``."""

    tokens: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"the last {list(self.tokens)} of the prompt" if self.tokens else "the prompt's last token"

    def awake(self, prompt: Sequence[int]) -> int:
        """How many tokens at the end of a prompt, of at least one id, the adapter is awake on: 1 or more.

        Raises:
            InvalidArgumentError: for a prompt without ``tokens``, on which the adapter would sleep for good.
        """
        if not self.tokens:
            return 1
        width = len(self.tokens)
        for start in range(len(prompt) - width, -1, -1):
            if tuple(prompt[start : start + width]) == self.tokens:
                return len(prompt) - start
        raise InvalidArgumentError(
            f"a prompt does not hold the tokens {list(self.tokens)} that wake an activated adapter, which would sleep "
            "for good: pass chat messages, whose template writes them, or an adapter that wakes at the prompt's end"
        )

    def settings(self) -> dict[str, Any]:
        """What adapter_config.json says of it."""
        return {TOKENS: list(self.tokens)} if self.tokens else {TOKENS: list(NO_TOKENS), AT_LAST: True}


def read_activation(folder: Path, config: Mapping[str, Any]) -> Activation | None:
    """What an adapter_config.json says; None for an ordinary adapter."""
    tokens, at_last = config.get(TOKENS), config.get(AT_LAST)
    if not tokens and not at_last:
        return None
    listed = tuple(tokens) if isinstance(tokens, list) else ()
    if listed == NO_TOKENS or (at_last and not tokens):  # PEFT, saving it again, leaves out what it does not know
        return Activation()
    whole = all(isinstance(token, int) and not isinstance(token, bool) and token >= 0 for token in listed)
    if not listed or not whole or at_last:
        raise LoadingError(
            f"{folder}: adapter_config.json is damaged ({TOKENS} is {tokens!r}, {AT_LAST} {at_last!r}): save the "
            "adapter again"
        )
    return Activation(listed)


def write_activation(folder: Path, activation: Activation) -> None:
    """Have an adapter that PEFT saved say from where on it is awake."""
    path = folder / "adapter_config.json"
    config = {**read_json(path), **activation.settings()}
    path.write_text(json.dumps(config, indent=2, sort_keys=True), encoding="utf-8")


def refuse_activated(path: object, activation: Activation | None, what: str, cure: str) -> None:
    """Raise UnsupportedAdapterError where an adapter is activated and ``what`` has to be true of an ordinary one."""
    if activation is not None:
        raise UnsupportedAdapterError(
            f"{path}: an activated adapter, asleep on a prompt up to {activation}, and {what}: {cure}"
        )


@dataclass(slots=True)
class AwakePlaces:
    """Where an adapter is awake in the pass at hand: [B, T] bool, or None for everywhere."""

    awake: Tensor | None = None

    def on(self, added: Tensor) -> Tensor:
        """What an adapter adds to a layer's output, [B, T, D] or [B·T, D], and 0 where it is asleep.

        Raises:
            UnsupportedAdapterError: a layer that reads tokens in another arrangement, experts' own for example.
        """
        if self.awake is None:
            return added
        shapes = (self.awake.shape, (self.awake.numel(),))
        if added.shape[:-1] not in shapes:
            raise UnsupportedAdapterError(
                f"an activated adapter is on a layer that reads {list(added.shape[:-1])} tokens of a batch of "
                f"{list(self.awake.shape)}, so that it is not known which are the prompt's: leave that layer out "
                "(--target-module)"
            )
        mask = self.awake.to(added.device).reshape(*added.shape[:-1], 1)
        return torch.where(mask, added, torch.zeros_like(added))
