"""Any causal language model of Hugging Face transformers, through its own forward pass.

Left-padded prompts, position ids, and a DynamicCache. Slower than a fused decoder, always right.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from ..prompts import pad_left
from .causal import CausalModel


class HFBackbone:
    """One model as transformers runs it: a single stream, with its adapter applied by hooks."""

    kind = "hf"

    def __init__(self, model: CausalModel, stream: int) -> None:
        self.model = model
        self.streams: tuple[int, ...] = (stream,)

    def cache_bytes(self, batch: int, length: int) -> int:
        config = self.model.config
        heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
        width = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        size = next(self.model.module.parameters()).element_size()
        return int(2 * config.num_hidden_layers * heads * width * batch * length * size)

    def session(self, batch: int, length: int) -> HFSession:
        return HFSession(self.model, batch, length)


class HFSession:
    """B rows of one model while they decode."""

    def __init__(self, model: CausalModel, batch: int, length: int) -> None:
        self.model = model
        self.batch = batch
        self.length = length
        self._parts = list(model.module.modules())

    def prefill(self, prompts: list[list[Tensor]]) -> list[Tensor]:
        # Masked, but looked up: the caller's padding id may not be in the embedding.
        ids, self._mask = pad_left(prompts[0], 0)
        self._cache = DynamicCache(config=self.model.module.config)
        return [self._forward(ids)]

    def decode(self, tokens: Tensor) -> list[Tensor]:
        self._mask = torch.cat([self._mask, self._mask.new_ones(len(tokens), 1)], dim=1)
        return [self._forward(tokens[:, None])]

    @torch.no_grad()
    def _forward(self, ids: Tensor) -> Tensor:
        inputs: dict[str, Any] = {"attention_mask": self._mask, "past_key_values": self._cache, "use_cache": True}
        if "position_ids" in self.model.accepts:
            positions = (self._mask.cumsum(-1) - 1).clamp(min=0)
            inputs["position_ids"] = positions[:, -ids.shape[1] :]
        if "logits_to_keep" in self.model.accepts:
            inputs["logits_to_keep"] = 1
        with evaluating(self._parts), self.model.active():
            logits: Tensor = self.model.module(input_ids=ids, **inputs).logits[:, -1]
        return logits.float() if logits.dtype == torch.float64 else logits


@contextmanager
def evaluating(parts: list[nn.Module]) -> Iterator[None]:
    """Dropout off inside the block; the mode of each of ``parts`` is as it was afterwards."""
    training = [part for part in parts if part.training]
    with ExitStack() as stack:
        for part in training:
            part.training = False
            stack.callback(setattr, part, "training", True)
        yield
