"""What the rows of a step's batch are decoded with, and what the models said of them where a row asks for it.

vLLM's model runners say in different ways which request lies in which row (``rows`` follows v1, ``slots`` v2). The
guided model reads the weights here and leaves its models' logits; the sampler's output passes by when tokens have been
drawn.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

import torch
from torch import Tensor
from vllm.utils.torch_utils import async_tensor_h2d

from .model_logprobs import own_columns, put, token_logprobs
from .settings import asks


class _Asking(NamedTuple):
    """The rows [A] that ask, and their own columns [A], of which the largest is ``most``."""

    rows: Tensor
    own: Tensor
    most: int


class StepTable:
    """``used``: for each model, the base first, whether any row gives it a weight, or asks for what it says.
    ``status`` [B] int32: of the rows that were combined last, what is wrong with them (combine.reason)."""

    def __init__(self, models: int, vocab_size: int, device: torch.device) -> None:
        self.used = [True] * models
        self.status: Tensor | None = None
        self._vocab_size, self._place = vocab_size, device
        self._asking: _Asking | None = None
        self._logits: list[Tensor] = []

    def weights(self, rows: int) -> Tensor:
        """The weights of the batch's rows, [rows, 1 + K] float32."""
        raise NotImplementedError

    def ask(self, own: Mapping[int, int]) -> None:
        """From now on these rows ask, which have so many columns of their own log-probabilities."""
        self._asking = None
        if own:
            rows, columns = async_tensor_h2d([[*own], [*own.values()]], device=self._place, dtype=torch.int64)
            self._asking = _Asking(rows, columns, max(own.values()))

    def keep(self, logits: Mapping[int, Tensor]) -> None:
        """The step's logits [B, V_m] by model's column, until ``report``; nothing is kept where no row asks."""
        self._logits = [logits[column] for column in range(len(self.used))] if self._asking is not None else []

    def report(self, output: Any) -> Any:
        """The sampler's output, with every model's log-probability of the token in the rows that ask."""
        if self._asking is None or not self._logits:
            return output
        rows, own, most = self._asking
        tokens = output.sampled_token_ids[rows, 0].long()
        values = token_logprobs(self._logits, rows, tokens, self._vocab_size)
        self._logits = []
        told = output.logprobs_tensors
        ids, logprobs = put(told.logprob_token_ids, told.logprobs, rows, own, most, values)
        output.logprobs_tensors = told._replace(logprob_token_ids=ids, logprobs=logprobs)
        return output


def columns_of(said: Mapping[str, Any] | None) -> int:
    """The columns of a request's own log-probabilities where it asks for every model's, 0 where it does not."""
    return own_columns(said) if said is not None and asks(said) else 0
