"""One forward pass of a stream's model, the module exactly as it was afterwards."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from .causal import CausalModel


class Forward:
    """``model``'s forward pass, with all that it takes to run one looked up once."""

    def __init__(self, model: CausalModel) -> None:
        self.accepts = model.accepts
        self._module = model.module
        self._parts = list(model.module.modules())
        self._active = model.activation()

    @torch.no_grad()
    def __call__(self, ids: Tensor, **inputs: Any) -> Tensor:
        """Ids [B, T] and more of the model's keywords -> its logits [B, T', V]; float32 where they are float64."""
        with evaluating(self._parts), self._active():
            logits: Tensor = self._module(input_ids=ids, use_cache=True, **inputs).logits
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
