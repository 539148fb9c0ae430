"""Each request's weights by its slot in vLLM's model runner v2, and on the device in the order of a step's batch.

A request has the same slot for as long as it runs; which slots a step decodes, and in which order, is said before each
forward pass. Imports nothing of the runner itself: vLLM's front end loads ``GuidedSlots`` too, to validate requests.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor
from vllm.utils.torch_utils import async_tensor_h2d
from vllm.v1.worker.gpu.sample.logits_processor import LogitsContext, LogitsProcessor

from .requests import GuidedRequests, named
from .settings import ServedGuidance
from .tables import StepTable, columns_of


class GuidedSlots(GuidedRequests, LogitsProcessor):
    """Validates requests and leaves logits alone: where a processor sees them, penalties have been applied already."""

    def add_request(self, req_idx: int, sampling_params: Any) -> bool:
        return False

    def apply(self, logits: Tensor, ctx: LogitsContext) -> Tensor:
        return logits


class SlotTable(StepTable):
    """Weights [slots, 1 + K] on the host, and those of the batch on the device. A slot keeps its last request's."""

    def __init__(self, guidance: ServedGuidance, slots: int, vocab_size: int, device: torch.device) -> None:
        default = guidance.row(None)
        super().__init__(len(default), vocab_size, device)
        self._guidance = guidance
        self._slots = np.tile(np.asarray(default, dtype=np.float32), (slots, 1))
        # A slot that nobody had yet counts as one that uses every model: vLLM measures its memory on such slots.
        self._uses = np.ones_like(self._slots, dtype=bool)
        self._own = np.zeros(slots, dtype=np.int64)  # columns of a request that asks for what every model says
        self._rows = torch.empty(0, len(default))

    def put(self, slot: int, said: Mapping[str, Any] | None) -> None:
        """Give a slot to a request that says this."""
        self._slots[slot] = self._guidance.row(said)
        self._own[slot] = columns_of(said)
        self._uses[slot] = (self._slots[slot] != 0) | (self._own[slot] > 0)

    def choose(self, slots: np.ndarray[Any, Any]) -> None:
        """Send the weights of the slots [rows] of a batch, in its order."""
        self._rows = async_tensor_h2d(self._slots[slots], device=self._place)
        self.used = self._uses[slots].any(axis=0).tolist()
        own = self._own[slots]
        self.ask({int(row): int(own[row]) for row in own.nonzero()[0]})

    def weights(self, rows: int) -> Tensor:
        """The weights of the batch's rows, [rows, 1 + K] float32.

        Raises:
            RuntimeError: the batch has another number of rows, whose weights would be others'.
        """
        if rows != len(self._rows):
            raise RuntimeError(f"guided decoding got logits of {rows} rows for a batch of {len(self._rows)} requests")
        return self._rows


def __getattr__(name: str) -> type[GuidedSlots]:
    found: type[GuidedSlots] = named(GuidedSlots, name)
    return found
