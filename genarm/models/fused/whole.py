"""Rows whose whole prompts are held once for all that have the same, where no adapter sleeps on prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from .shared import SharedSession


class WholePromptSession(SharedSession):
    """S·B rows, each of a prompt that it may have in common with others of its stream and the tokens behind it.

    A prompt is read as a ``FusedSession`` reads it, in the same passes, so that what follows are the same bits.
    """

    def __init__(self, *args: Any, **settings: Any) -> None:
        super().__init__(*args, **settings)
        self._ends: dict[int, Tensor] = {}  # of each place, the hidden state [H] of the prompt's last token

    @torch.no_grad()
    def prefill(self, prompts: list[list[Tensor]], rows: Sequence[int] | None = None) -> list[Tensor]:
        """Read S lists of prompts, each different one of a stream once."""
        slots, texts, ids = self._one_by_one(prompts, rows)
        lengths = [len(text) for text in texts]
        if rows is not None:
            self._clear(slots)
        with torch.autocast(self._lengths.device.type, enabled=False):
            keys = [(self._adapter_of_row[slot], own) for slot, own in zip(slots, ids, strict=True)]
            held, ends = self._begin(slots, keys, texts, lengths, rows is None)
            self._ends.update(ends)
            logits = self._after([slot // self.batch for slot in slots], held)
        self._note_prompts(slots, lengths)
        return logits

    def _after(self, streams: Sequence[int], places: Sequence[int]) -> list[Tensor]:
        """S logits [n, V] of what follows the prompts in ``places``, those of rows of a stream side by side."""
        pairs = list(zip(streams, places, strict=True))
        unique = {pair: index for index, pair in enumerate(dict.fromkeys(pairs))}
        counts = [sum(stream == own for own, _ in unique) for stream in range(self.streams)]
        hidden = torch.stack([self._ends[place] for _, place in unique])
        logits = self._head(self._tensors, hidden, counts)
        return list(logits[[unique[pair] for pair in pairs]].chunk(self.streams))
