"""Each request's weights on the device, in the order of the batch of vLLM's model runner v1.

It tells a logits processor which request lies in which row of the batch before each forward pass. This processor
changes no logits: it is the table of those rows, which the guided model reads when it combines.
"""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.v1.sample.logits_processor import BatchUpdate, LogitsProcessor, MoveDirectionality

from .requests import GuidedRequests, named
from .tables import StepTable, columns_of

PLACE = "genarm.rows"  # in the engine's static forward context, where the model finds its processor


class _Told(NamedTuple):
    """A request's weights, and the columns of its own log-probabilities where it asks for every model's."""

    weights: list[float]
    own: int


class GuidedRows(GuidedRequests, StepTable, LogitsProcessor):
    """The table of weights [rows, 1 + K]."""

    def __init__(self, vllm_config: Any, device: torch.device, is_pin_memory: bool) -> None:
        default = self.guidance.row(None)
        StepTable.__init__(self, len(default), vllm_config.model_config.get_vocab_size(), device)
        rows = vllm_config.scheduler_config.max_num_seqs
        self._host = torch.tensor([default] * rows, dtype=torch.float32, pin_memory=is_pin_memory)
        self._device = self._host.to(device, copy=True)
        self._requests: dict[int, _Told] = {}
        self._count = 0
        vllm_config.compilation_config.static_forward_context[PLACE] = self

    def update_state(self, batch_update: BatchUpdate | None) -> None:
        """Follow the batch. Removals come before additions, and moves last, as vLLM orders them."""
        if batch_update is None:
            return
        requests = self._requests
        for row in batch_update.removed:
            requests.pop(row, None)
        for row, params, _prompt, _output in batch_update.added:
            requests[row] = _Told(self.guidance.row(params.extra_args), columns_of(params.extra_args))
        for source, target, direction in batch_update.moved:
            moved, other = requests.pop(source, None), requests.pop(target, None)
            if moved is not None:
                requests[target] = moved
            if other is not None and direction == MoveDirectionality.SWAP:
                requests[source] = other
        self._count = batch_update.batch_size
        self._upload()

    def _upload(self) -> None:
        lost = [row for row in range(self._count) if row not in self._requests]
        if lost or len(self._requests) != self._count:
            raise RuntimeError(
                f"guided decoding lost track of vLLM's batch: {self._count} rows, weights for "
                f"{sorted(self._requests)}; please report this with your vLLM version"
            )
        asking = {row: told.own for row, told in sorted(self._requests.items()) if told.own}
        self.ask(asking)
        if not self._count:
            return
        rows = [self._requests[row].weights for row in range(self._count)]
        self.used = [bool(asking) or any(column) for column in zip(*rows, strict=True)]
        self._host[: self._count] = torch.tensor(rows, dtype=torch.float32)
        self._device[: self._count].copy_(self._host[: self._count], non_blocking=True)

    def weights(self, rows: int) -> Tensor:
        """The weights of the batch's rows, [rows, 1 + K] float32; the server's own while vLLM measures itself.

        Raises:
            RuntimeError: the batch has another number of rows, whose weights would be others'.
        """
        if self._count and rows != self._count:
            raise RuntimeError(f"guided decoding got logits of {rows} rows for a batch of {self._count} requests")
        return self._device[:rows]

    def apply(self, logits: Tensor) -> Tensor:
        return logits

    def is_argmax_invariant(self) -> bool:
        return True


def __getattr__(name: str) -> type[GuidedRows]:
    found: type[GuidedRows] = named(GuidedRows, name)
    return found
