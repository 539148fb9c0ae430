"""Rows that move on by numbers of tokens of their own: what a state holds of them, and what a draw at several places of
each reads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from ..request.guidance import Guidance
from ..request.options import Request


@dataclass(slots=True)
class Ragged:
    """B rows, texts of at most T tokens, prompts included. ``wide``: for some numbers of places Q the guidance of B·Q
    rows, row b·Q + q sequence b's at place q."""

    texts: Tensor  # [B, T] int64, behind a text's end anything
    counts: Tensor  # [B] int64, new tokens so far
    limits: Tensor  # [B] int64, new tokens at most
    wide: dict[int, Guidance]

    def copied(self, copy: Callable[[Any], Any]) -> Ragged:
        own: Ragged = copy(replace(self, wide={Q: copy(guidance) for Q, guidance in self.wide.items()}))
        return own

    def holders(self) -> list[object]:
        return [self, *self.wide.values()]


def new_ragged(request: Request, length: int, places: Sequence[int]) -> Ragged:
    """The texts of a request's rows before the first new token."""
    prompts, device = request.streams[0].rows, request.device
    texts = torch.full((len(prompts), length), request.pad_id, dtype=torch.int64, device=device)
    for row, prompt in enumerate(prompts):
        texts[row, : len(prompt)] = prompt
    counts = torch.zeros(len(prompts), dtype=torch.int64, device=device)
    rows = torch.arange(len(prompts), device=device)
    return Ragged(
        texts=texts,
        counts=counts,
        limits=torch.full_like(counts, request.max_new_tokens),
        wide={Q: request.guidance.select(rows.repeat_interleave(Q)) for Q in places if Q > 1},
    )


class RaggedRows(Protocol):
    """What is needed of a ``State`` of ragged rows."""

    guidance: Guidance
    tokens: Tensor
    positions: Tensor
    seen: Tensor | None
    guided: Tensor | None
    ragged: Ragged | None


class Places:
    """What a draw at Q places of every row reads, of which the first follows a row's text and the others a draft."""

    def __init__(self, state: RaggedRows, Q: int) -> None:
        assert state.ragged is not None
        self._state, self._ragged = state, state.ragged
        self.guidance = state.ragged.wide[Q]
        with torch.inference_mode(False):  # the caller's next step may be outside of the mode this one is in
            self._offsets = torch.arange(Q, device=state.tokens.device)
            self.positions = torch.zeros(len(state.tokens) * Q, dtype=torch.int64, device=state.tokens.device)
        self.seen: Tensor | None = None

    def behind(self, drafts: Tensor) -> None:
        """Stand behind the texts and these drafts, [B, Q - 1]."""
        places = self._state.positions[:, None] + self._offsets
        self.positions.copy_(places.flatten())
        if self._state.seen is not None:
            self.seen = seen_behind(self._state.seen, drafts)

    def note_guided(self, guided: Tensor) -> None:
        """Whether the draws, [B·Q] bool, are guided."""
        assert self._state.guided is not None
        columns = self._ragged.counts[:, None] + self._offsets
        self._state.guided.scatter_(1, columns, guided.view_as(columns))


def seen_behind(seen: Tensor, drafts: Tensor) -> Tensor:
    """The ids that texts hold, [B, V] bool, and those that are in them behind 0 to Q - 1 drafts too, [B·Q, V]."""
    Q = drafts.shape[1] + 1
    found = seen[:, None].repeat(1, Q, 1)
    for place in range(1, Q):
        found[:, place:].scatter_(2, drafts[:, place - 1, None, None].expand(-1, Q - place, 1), True)
    return found.flatten(0, 1)
