"""Decoding as transformers itself does it: prompts padded on the left, a mask, and a DynamicCache.

For models that do not run on a static cache (hf.py): ALiBi, recurrent layers, masks of their own. Slower, always right.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ...request.prompts import pad_left
from ..causal import CausalModel
from .forward import Forward


class PaddedSession:
    """B rows of one model while they decode. Its cache grows by a token a step, so no graph can be captured of it."""

    def __init__(self, model: CausalModel, batch: int, length: int) -> None:
        self.batch = batch
        self.length = length
        self._config = model.module.config
        self._forward = Forward(model)

    def prefill(self, prompts: list[list[Tensor]]) -> list[Tensor]:
        # Masked, but looked up: the caller's padding id may not be in the embedding.
        ids, self._mask = pad_left(prompts[0], 0)
        self._cache = DynamicCache(config=self._config)
        return [self._read(ids)]

    def decode(self, tokens: Tensor) -> list[Tensor]:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return [self._read(tokens[:, None])]

    def _read(self, ids: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"attention_mask": self._mask, "past_key_values": self._cache}
        if "position_ids" in self._forward.accepts:
            positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -ids.shape[1] :]
        if "logits_to_keep" in self._forward.accepts:
            inputs["logits_to_keep"] = 1
        return self._forward(ids, **inputs)[:, -1]
