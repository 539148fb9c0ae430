"""Decoding as transformers itself does it: prompts padded on the left, a mask, and a DynamicCache.

For models that do not run on a static cache (session.py): ALiBi, recurrent layers, masks of their own. Slower, always
right. What such a cache holds of a row cannot be taken out or moved in general, so a text that was cut or copied is
read anew.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor
from transformers import DynamicCache

from ...request.prompts import pad_left
from ..backbone import Rows, checked_lengths, checked_rows, follow_by_copy
from ..causal import CausalModel
from .forward import Forward, ShownNaN, is_compiled
from .waking import Waking

FEW = 64  # keys of a token, of which torch may hide that all their scores are NaN: it does so below 8 or 16


class PaddedSession:
    """B rows of one model while they decode. Its cache grows with every token, so no graph can be captured of it."""

    def __init__(self, model: CausalModel, batch: int, length: int) -> None:
        self.batch = batch
        self.length = length
        self._config = model.module.config
        self._forward = Forward(model)
        self._may_hide_nan = model.device.type == "cpu" and not is_compiled(model.module)
        self._waking = Waking(model.activation, batch)
        self._texts: list[Tensor] = []  # what each row holds
        self._cache: DynamicCache | None = None  # None where the texts are to be read anew

    @property
    def lengths(self) -> Tensor:
        device = self._texts[0].device
        return torch.tensor([[len(text) for text in self._texts]], dtype=torch.int32, device=device)

    @property
    def cuts(self) -> bool:
        return False

    def prefill(self, prompts: list[list[Tensor]], rows: Sequence[int] | None = None) -> list[Tensor]:
        assert rows is None, "a row of such a cache cannot be exchanged"
        self._waking.read(range(len(prompts[0])), prompts[0])
        return [self.begin(prompts[0], self._waking.starts)]

    def begin(self, texts: list[Tensor], starts: Sequence[int]) -> Tensor:
        """Read texts in which an activated adapter is awake from ``starts`` on -> [B, V] of what follows."""
        self._waking.starts, self._texts, self._cache = list(starts), list(texts), None
        return self._read(self._texts, 1)[:, -1]

    def append(self, tokens: Tensor) -> list[Tensor]:
        if max(map(len, self._texts)) + tokens.shape[1] > self.length:
            raise IndexError(f"rows of up to {max(map(len, self._texts))} tokens and {tokens.shape[1]} more do not fit")
        self._texts = [torch.cat([text, new]) for text, new in zip(self._texts, tokens, strict=True)]
        return [self._read(list(tokens) if self._cache is not None else self._texts, tokens.shape[1])]

    def copy(self, sources: Rows, targets: Rows) -> None:
        pair = checked_rows(sources, targets, self.batch, self._texts[0].device)
        before = list(self._texts)
        for source, target in zip(*(rows.tolist() for rows in pair), strict=True):
            self._texts[target] = before[source]
        self._waking.copy(pair[0].tolist(), pair[1].tolist())
        self._cache = None

    def follow(self, origins: Tensor) -> None:
        follow_by_copy(self, origins)

    def take_back(self, counts: Tensor) -> None:
        self.truncate(self.lengths - counts)

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        kept = checked_lengths(lengths, self.lengths)[0].tolist()
        self._texts = [text[:length] for text, length in zip(self._texts, kept, strict=True)]
        self._waking.cut([*kept, *self._waking.starts[len(kept) :]])
        self._cache = None

    def _read(self, texts: list[Tensor], last: int) -> Tensor:
        """[B, last, V]: what follows each of the last tokens. Without a cache the texts are all there is."""
        # Masked, but looked up: the caller's padding id may not be in the embedding.
        ids, mask = pad_left(texts, 0)
        is_first = self._cache is None
        if is_first:
            self._cache, self._mask = DynamicCache(config=self._config), mask
        else:
            self._mask = torch.cat([self._mask, mask], dim=1)
        inputs: dict[str, Any] = {"attention_mask": self._mask, "past_key_values": self._cache}
        positions = (self._mask.cumsum(-1) - 1).clamp(min=0)[:, -ids.shape[1] :]
        awake = self._waking.places(range(len(texts)), positions) if is_first else None
        if "position_ids" in self._forward.accepts:
            inputs["position_ids"] = positions
        if "logits_to_keep" in self._forward.accepts:
            inputs["logits_to_keep"] = last
        hides = self._may_hide_nan and (is_first or self._mask.shape[1] < FEW)
        with ShownNaN() if hides else nullcontext():
            return self._forward(ids, awake, **inputs)[:, -last:]
