"""Rows whose prompts' keys and values are held once for all that begin with them.

Adapters that sleep on a prompt leave its keys and values the base's, so that the base and every such stream have one
prefix, which is read once and held once; sequences with one prompt have it too. Only a prompt's last tokens, on which
adapters are awake, and what follows are each row's own.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Protocol

import torch
from torch import Tensor

import genarm_kernels
from genarm_kernels import follow_rows
from genarm_kernels.layer.sharing import new_sharing
from genarm_kernels.native.decode import DecodeStep

from ..activation import Activation
from ..backbone import checked_lengths, copied_rows, origins
from .attention import Span, prefill_attention
from .native import native_step
from .network import Network
from .prefill import ID_BYTES, Unique, chunks, id_bytes
from .prefixes import Key, PrefixBook, Room
from .session import CHUNK_TOKENS, MOST_TOKENS, FusedSession, OfBackbone, buffers
from .slots import RowSlots
from .weights import Tensors


class OfSharing(OfBackbone, Protocol):
    """What a session that shares prefixes needs of its ``FusedBackbone``."""

    activations: tuple[Activation | None, ...]


class SharedSession(FusedSession):
    """S·B rows, each of a prefix that it may have in common with others and a tail of its own, as ``room`` says.

    A prompt is read twice: without its last tokens, once for all rows that begin so, and these by each row, as in a
    step. So a row's bits do not depend on who shares its prefix.
    """

    def __init__(
        self,
        backbone: OfSharing,
        tensors: Tensors,
        batch: int,
        length: int,
        room: Room,
        cache: Tensor | None = None,
        given: RowSlots | None = None,
    ) -> None:
        self._room, self._activations = room, backbone.activations
        self._book = PrefixBook(room.prefixes)
        self.sharing = new_sharing(len(backbone.streams) * batch, room.prefixes, tensors.head.device)
        super().__init__(backbone, tensors, batch, length, cache, given)
        own = [(layer[0], layer[1]) for layer in self._prefixes.transpose(3, 4)]
        self._prefix_keys_and_values = own
        self._prompt_network = Network(self._parts, own, self.cos, self.sin)

    def _make_slots(self, like: Tensor, cache: Tensor | None) -> Tensor:
        parts, room, rows = self._parts, self._room, self.streams * self.batch
        shapes = [
            (len(parts.layers), 2, count, parts.kv_heads, length, parts.head_dim)
            for count, length in ((room.prefixes, room.prompt), (rows, room.own))
        ]
        self._prefixes, tails = buffers(shapes, like, cache)
        return tails

    def _make_network(self) -> Network:
        return Network(self._parts, self._keys_and_values, self.cos, self.sin, self.sharing.lengths)

    def _native_step(self, tensors: Tensors) -> DecodeStep | None:
        read = (self._row_adapters, self._slots, self._lengths, self.cos, self.sin)
        return native_step(self._parts, tensors, *read, self.sharing, self._prefixes)

    def append(self, tokens: Tensor) -> list[Tensor]:
        if self._host:
            held = int((self._lengths - self.sharing.lengths).max())
            if held + tokens.shape[1] > self._room.own:
                raise IndexError(f"{held} tokens behind prompts and {tokens.shape[1]} more do not fit {self._room.own}")
        return super().append(tokens)

    def follow(self, origins: Tensor) -> None:
        rows = torch.arange(self.streams, device=origins.device)[:, None] * self.batch + origins
        before = self.sharing.lengths
        follow_rows(self._slots, rows.flatten(), self._prompts - before, self._lengths - before)

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        kept = checked_lengths(lengths, self.lengths).reshape(-1)
        self.sharing.lengths.copy_(torch.minimum(self.sharing.lengths, kept))
        super().truncate(lengths)

    def _copy_rows(self, sources: Tensor, targets: Tensor, positions: int) -> None:
        super()._copy_rows(sources, targets, positions)
        origin = origins(sources, targets, len(self._lengths))
        for held in (self.sharing.of_row, self.sharing.lengths):
            copied_rows(held, 0, origin)
        self.sharing.regroup()

    @torch.no_grad()
    def prefill(self, prompts: list[list[Tensor]], rows: Sequence[int] | None = None) -> list[Tensor]:
        """Read S lists of prompts: what rows begin with in common once, then each row's last tokens."""
        slots, texts, ids = self._one_by_one(prompts, rows)
        awake = [self._awake(slot, own) for slot, own in zip(slots, ids, strict=True)]
        starts = [len(text) - count for text, count in zip(texts, awake, strict=True)]
        if rows is not None:
            self._clear(slots)
        with torch.autocast(self._lengths.device.type, enabled=False):
            keys = [(self._asleep(slot), own[:-ID_BYTES]) for slot, own in zip(slots, ids, strict=True)]
            self._begin(slots, keys, texts, starts, rows is None)
            if rows is None and len(set(awake)) == 1 and awake[0] <= MOST_TOKENS:
                logits = self._end_as_step(texts, starts, awake[0])
            else:
                logits = self._end(slots, texts, starts)
        self._note_prompts(slots, [len(text) for text in texts])
        return logits

    def _one_by_one(
        self, prompts: list[list[Tensor]], rows: Sequence[int] | None
    ) -> tuple[list[int], list[Tensor], list[bytes]]:
        """Of all streams one after the other: where each prompt goes, the prompt, and its ids as they lie in memory."""
        places = range(self.batch) if rows is None else rows
        texts = [prompt for own in prompts for prompt in own]
        return [stream * self.batch + row for stream in range(self.streams) for row in places], texts, id_bytes(texts)

    def _awake(self, slot: int, ids: bytes) -> int:
        """Of the tokens of a prompt, how many the row reads itself."""
        activation = self._activations[slot // self.batch]
        return 1 if activation is None else activation.awake(memoryview(ids).cast("q"))

    def _asleep(self, slot: int) -> int:
        """The adapter that reads what comes before those, −1 for none."""
        return self._adapter_of_row[slot] if self._activations[slot // self.batch] is None else -1

    def _begin(
        self, slots: list[int], keys: list[Key], texts: Sequence[Tensor], starts: list[int], afresh: bool
    ) -> tuple[list[int], dict[int, Tensor]]:
        """Read what rows begin with, where no place holds it, and let the rows begin with it -> each row's place, and
        for the places that were read into the hidden state [H] of the last token."""
        if afresh:
            self._book.forget()
        others = [] if afresh else [row for row in range(len(self._lengths)) if row not in {*slots}]
        needed = set() if not others else set(self.sharing.of_row[others].tolist())
        places, fresh = self._book.seat(keys, needed)
        device = self._lengths.device
        owners = [-1] * self._room.prefixes
        for place, (owner, _) in fresh.items():
            owners[place] = owner
        text_of = dict(zip(keys, texts, strict=True))
        read = [text_of[key][: len(key[1]) // ID_BYTES] for key in fresh.values()]
        see = partial(self._see, self._prefix_keys_and_values)
        parts = chunks(Unique(read, list(fresh), []), CHUNK_TOKENS)
        ends = [end for chunk in parts for end in self._read(chunk, self._prompt_network, owners, see)]
        where = torch.tensor(slots, device=device)
        self.sharing.of_row[where] = torch.tensor(places, dtype=torch.int32, device=device)
        self.sharing.lengths[where] = torch.tensor(starts, dtype=torch.int32, device=device)
        if fresh:
            extents = torch.tensor([len(one) for one in read], dtype=torch.int32, device=device)
            self.sharing.extents[torch.tensor(list(fresh), device=device)] = extents
        self.sharing.regroup()
        return places, dict(zip((place for place, key in fresh.items() if key[1]), ends, strict=True))

    def _end_as_step(self, texts: Sequence[Tensor], starts: Sequence[int], count: int) -> list[Tensor]:
        """Every row's last ``count`` tokens, as a step."""
        self._lengths.copy_(self.sharing.lengths)
        self._longest, self._even = max(starts), False
        last = torch.stack([text[-count:] for text in texts])
        return [logits[:, -1] for logits in self._append(last)]

    def _end(self, slots: list[int], texts: list[Tensor], starts: list[int]) -> list[Tensor]:
        """Some rows' last tokens, of any numbers."""
        see = partial(self._see_both, self.sharing.of_row.tolist(), self.sharing.lengths.tolist())
        parts = chunks(Unique(texts, slots, [], starts), CHUNK_TOKENS)
        last = torch.cat([self._read(part, self._network, self._adapter_of_row, see) for part in parts])
        return list(self._head(self._tensors, last, [len(slots) // self.streams] * self.streams).chunk(self.streams))

    def _see_both(
        self, places: Sequence[int], starts: Sequence[int], spans: Sequence[Span], layer: int, query: Tensor
    ) -> Tensor:
        """Attention of prompts' last tokens over prefix and tail, which are put together for each row. ``places`` and
        ``starts``: what the rows begin with, and where their tails do."""
        window, scale = self._tensors.layers[layer].window, self._parts.scale
        pairs = list(zip(self._prefix_keys_and_values[layer], self._keys_and_values[layer], strict=True))
        found, done = [], 0
        for span in spans:
            place, start = places[span.row], starts[span.row]
            keys, values = (
                torch.cat([prefix[place, :start], own[span.row, : span.stop - start]])[None] for prefix, own in pairs
            )
            tokens = query[done : done + span.count]
            found.append(prefill_attention(tokens, keys, values, [Span(0, span.start, span.count)], scale, window))
            done += span.count
        return torch.cat(found)

    def _attend(self, Q: int, layer: int, query: Tensor) -> Tensor:
        return genarm_kernels.shared_attention(
            query.view(-1, Q, *query.shape[1:]),
            *self._keys_and_values[layer],
            self._lengths,
            *self._prefix_keys_and_values[layer],
            self.sharing,
            self._parts.scale,
            self._tensors.layers[layer].window,
            longest=self._longest if self._host else None,
            arrivals=self._arrivals,
        )
