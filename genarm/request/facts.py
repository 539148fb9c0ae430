"""What checking a call needs to know of the models."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch

from .preferences import Objectives


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """Read anew for every call: users edit generation configs.

    ``names`` are the M models', the base's first; ``prompt_ids`` how many ids the prompt of each may hold;
    the vocabulary is the base's, and so is ``tokenizer``, where there is one. ``conditioned`` are the reward models
    that take a preference; ``wakes`` say of the activated ones how many tokens of a prompt they are awake on.
    """

    device: torch.device
    names: tuple[str, ...]
    prompt_ids: tuple[int, ...]
    vocab_size: int
    max_length: int
    eos_ids: tuple[int, ...]
    bos_id: int | None
    pad_id: int | None
    tokenizer: Any = None
    conditioned: Mapping[str, Objectives] = field(default_factory=dict)
    wakes: Mapping[str, Callable[[Sequence[int]], int]] = field(default_factory=dict)

    @property
    def reward_names(self) -> tuple[str, ...]:
        return self.names[1:]

    def padding(self, eos_ids: Sequence[int]) -> int:
        """The pad id, else EOS (of several the first, as Hugging Face takes), else 0."""
        if self.pad_id is not None:
            return self.pad_id
        return next(iter((*eos_ids, *self.eos_ids)), 0)
