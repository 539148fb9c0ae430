"""What the engine asks of a set of weights and of its part in a running batch."""

from __future__ import annotations

from typing import Protocol

from torch import Tensor


class Session(Protocol):
    """A backbone's part of a running batch: S streams of up to ``batch`` rows, at most ``length`` tokens each.

    Its buffers stay where they are from one call to the next, so that a captured graph may read them.
    """

    batch: int
    length: int

    def prefill(self, prompts: list[list[Tensor]]) -> list[Tensor]:
        """Forget what was there and read S lists of B prompts, 1-D int64 each -> S logits [B, V] of what follows."""

    def decode(self, tokens: Tensor) -> list[Tensor]:
        """Append a token a row, [B] int64, to every stream -> S logits [B, V] of the next."""


class Backbone(Protocol):
    """One set of weights and the streams that run on it."""

    @property
    def kind(self) -> str:
        """The path that runs."""

    @property
    def streams(self) -> tuple[int, ...]:
        """The streams' places among the decoder's models."""

    def cache_bytes(self, batch: int, length: int) -> int:
        """Bytes of key-value cache of a session."""

    def session(self, batch: int, length: int) -> Session:
        """Buffers for a batch."""
