"""From which position on each row's adapter is awake, as a session's verbs leave it."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from ..activation import Activation


class Waking:
    """``starts`` of the rows of a session. A prompt's end settles a row's, and what is appended is read awake."""

    def __init__(self, activation: Activation | None, batch: int) -> None:
        self.starts = [0] * batch
        self._activation = activation

    def read(self, rows: Sequence[int], prompts: Sequence[Tensor]) -> None:
        """New prompts in some rows."""
        if self._activation is not None:
            for row, prompt in zip(rows, prompts, strict=True):
                self.starts[row] = len(prompt) - self._activation.awake(prompt.tolist())

    def copy(self, sources: Sequence[int], targets: Sequence[int]) -> None:
        before = list(self.starts)
        for source, target in zip(sources, targets, strict=True):
            self.starts[target] = before[source]

    def cut(self, lengths: Sequence[int]) -> None:
        """Rows keep their first tokens."""
        self.starts = [min(start, length) for start, length in zip(self.starts, lengths, strict=True)]

    def places(self, rows: Sequence[int], positions: Tensor) -> Tensor | None:
        """Whether the adapter is awake at ``positions`` [n, T] of n rows, [n, T] bool; None where it always is."""
        if self._activation is None:
            return None
        return positions >= torch.tensor([[self.starts[row]] for row in rows], device=positions.device)
