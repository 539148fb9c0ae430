"""A LoRA adapter that PEFT put on a model, asleep on the prompts of the batches it reads: for training and scoring."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel
from peft.tuners.lora import LoraLayer
from torch import Tensor, nn

from ..errors import UnsupportedAdapterError
from .activation import AT_LAST, Activation, AwakePlaces

AWAKE_FROM = "awake_from"  # [N] int64 in a batch: the column of each row from which on the adapter is awake


class SleepingAdapter:
    """All LoRA layers of a model. What they add counts from ``awake_from`` on in the rows of the batch at hand, which
    stays that until the next one: layers may be computed again in the backward pass.

    Raises:
        UnsupportedAdapterError: there is none, or one on an embedding.
    """

    def __init__(self, model: nn.Module, activation: Activation) -> None:
        self.activation = activation
        self._places = AwakePlaces()
        layers = [part for part in model.modules() if isinstance(part, LoraLayer)]
        if not layers or any(layer.lora_embedding_B for layer in layers):
            what = "on an embedding" if layers else "none"
            raise UnsupportedAdapterError(
                f"an adapter that sleeps on prompts is on linear layers, and this one is {what}: name those"
            )
        ups = [up for layer in layers for up in layer.lora_B.values()]
        self._handles = [up.register_forward_hook(self._masked) for up in ups]

    def read(self, batch: Mapping[str, Tensor]) -> None:
        """The next pass is over this batch of a `PairCollator` that was given the activation."""
        columns = torch.arange(batch["input_ids"].shape[1], device=batch["input_ids"].device)
        self._places.awake = columns >= batch[AWAKE_FROM][:, None]

    def wake(self) -> None:
        """An ordinary adapter from here on."""
        for handle in self._handles:
            handle.remove()

    def _masked(self, _module: nn.Module, _inputs: Any, added: Tensor) -> Tensor:
        if self._places.awake is None:
            raise RuntimeError("an adapter that sleeps on prompts was run on a batch that it has not read")
        return self._places.on(added)


def lora_config(folder: Path) -> LoraConfig:
    """An adapter's configuration for PEFT, as that of an ordinary one, which a `SleepingAdapter` puts to sleep."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=f".*{AT_LAST}.*")
        config: LoraConfig = LoraConfig.from_pretrained(str(folder))
    config.alora_invocation_tokens = None
    return config


def put_on(model: Any, folder: Path) -> Any:
    """The adapter in ``folder`` on ``model``, by PEFT, for evaluation."""
    return PeftModel.from_pretrained(model, folder, config=lora_config(folder)).eval()
