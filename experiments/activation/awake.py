"""LoRA layers that sleep on a prompt: their part counts from the prompt's last token on, and nowhere before it.

The prompt's keys and values are the base's then, and only the last prompt token's and the response's differ.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from genarm.preferences.collate import IGNORED, PairCollator
from genarm.preferences.encoding import EncodedPair
from genarm.preferences.scoring import response_log_probs
from genarm.training.arm import ArmTrainer


@dataclass(slots=True)
class Wakefulness:
    """Where the adapter of a model works in the batch at hand, [N, T]; None: everywhere."""

    places: Tensor | None = field(default=None)

    def gate(self, model: nn.Module) -> list[RemovableHandle]:
        """Every LoRA layer's part is multiplied by it from now on, until the handles are removed."""
        gated = [part for name, part in model.named_modules() if name.endswith(".lora_B.default")]
        assert gated, "no LoRA layer is there to be gated"
        return [part.register_forward_hook(self._masked) for part in gated]

    def _masked(self, _module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        return output if self.places is None else output * self.places[:, :, None].to(output.dtype)


def from_last_prompt_token(labels: Tensor) -> Tensor:
    """[N, T] bool, of labels [N, T] that are -100 on prompt and padding: the prompt's last token and the response."""
    labelled = labels != IGNORED
    return labelled | F.pad(labelled[:, 1:], (0, 1))


class AwakeTrainer(ArmTrainer):
    """The AR-RM's trainer, with the adapter asleep on prompts."""

    awake: Wakefulness

    def compute_loss(self, model: Any, inputs: dict[str, Any], *arguments: Any, **options: Any) -> Any:
        self.awake.places = from_last_prompt_token(inputs["labels"])
        return super().compute_loss(model, inputs, *arguments, **options)


@torch.no_grad()
def rewards(model: Any, pairs: Sequence[EncodedPair], pad_token_id: int, awake: Wakefulness | None = None) -> Tensor:
    """Σ_t log π_r(y_t | x, y_<t) of both responses of N pairs, [N, 2] float64; by a sleeping adapter with ``awake``."""
    collate, found = PairCollator(pad_token_id), []
    model.eval()
    for start in range(0, len(pairs), 64):
        batch = collate(pairs[start : start + 64])
        if awake is not None:
            awake.places = from_last_prompt_token(batch["labels"])
        found.append(response_log_probs(model, batch).double().sum(1).view(2, -1).T)
    return torch.cat(found)
