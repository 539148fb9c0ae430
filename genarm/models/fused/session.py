"""The fused decoder: rows of one backbone while they decode, in a static cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from math import prod
from typing import Protocol

import torch
from torch import Tensor

from genarm_kernels import follow_rows
from genarm_kernels.layer.attention_arguments import new_arrivals
from genarm_kernels.layer.cpu import attention as host_attention
from genarm_kernels.layer.embed import embed, rows_of
from genarm_kernels.layer.residual import COUNTERS
from genarm_kernels.native.decode import DecodeStep

from ..backbone import Rows, checked_lengths, checked_rows, copied_rows, origins
from .attention import AttentionName, Span, decode_attention, prefill_attention
from .families import rotary_tables
from .head import Head
from .native import native_step
from .network import Network, on_host
from .prefill import Chunk, chunks, unique_prompts
from .row_loras import HeadLora, PassRows, RowLoras, row_loras
from .slots import PreferenceSlots, RowSlots
from .weights import FusedWeights, Tensors

CHUNK_TOKENS = 8192
MOST_TOKENS = 8  # of a row in one pass, which the attention kernel takes
# spans, layer, query [N, H, D] of their tokens -> [N, H, D]
See = Callable[[Sequence[Span], int, Tensor], Tensor]


def buffers(shapes: Sequence[Sequence[int]], like: Tensor, memory: Tensor | None) -> list[Tensor]:
    """Tensors of ``like``'s dtype and device, one behind the other in ``memory``, uint8 zeros, or in some of their own.

    Zeros: what lies beyond a row's length is multiplied by a weight of zero, which NaN would survive.
    """
    sizes = [prod(shape) for shape in shapes]
    count = sum(sizes) * like.element_size()
    if memory is None:
        memory = torch.zeros(count, dtype=torch.uint8, device=like.device)
    parts = torch.split(memory[:count].view(like.dtype), sizes)
    return [part.view(tuple(shape)) for part, shape in zip(parts, shapes, strict=True)]


class OfBackbone(Protocol):
    """What a session needs of its ``FusedBackbone``."""

    streams: tuple[int, ...]
    attention: AttentionName
    weights: FusedWeights
    head_lora: HeadLora | None
    slots: PreferenceSlots


class FusedSession:
    """S·B rows of one backbone while they decode, in a static cache.

    ``attach`` gives it the tensors that it reads; between requests a captured session holds none, so that the weights
    are the module's alone.
    """

    def __init__(
        self,
        backbone: OfBackbone,
        tensors: Tensors,
        batch: int,
        length: int,
        cache: Tensor | None = None,
        given: RowSlots | None = None,
    ) -> None:
        self.batch, self.length = batch, length
        self.streams = len(backbone.streams)
        self._attention = backbone.attention
        self._parts = parts = backbone.weights.parts
        rows, like = self.streams * batch, tensors.head
        self._slots = self._make_slots(like, cache)
        # [L, 2, R, T, H_kv, D], and layer by layer its keys and values
        self.cache = self._slots.transpose(3, 4)
        self._keys_and_values = [(layer[0], layer[1]) for layer in self.cache]
        self._lengths = torch.zeros(rows, dtype=torch.int32, device=like.device)
        self._counters = torch.zeros(COUNTERS, dtype=torch.int32, device=like.device)
        self._arrivals = new_arrivals(rows, parts.heads, parts.kv_heads, like.device)
        self._prompts = torch.zeros_like(self._lengths)  # how much of it a row has in common with those it may follow
        self.cos, self.sin = rotary_tables(parts.rotary, length, like.device)
        self._adapter_of_row = backbone.slots.row_adapters(tensors.adapters, batch, given)
        self._row_adapters = torch.tensor(self._adapter_of_row, dtype=torch.int32, device=like.device)
        self._host, self._longest, self._even = on_host(like.device), 0, True
        self._network = self._make_network()
        self._head = Head(backbone.head_lora, parts.eps, self._host)
        self._rows: dict[int, PassRows] = {}
        self.attach(tensors)

    def _make_slots(self, like: Tensor, cache: Tensor | None) -> Tensor:
        """[L, 2, R, H_kv, T, D] of ``like``'s dtype and device, in the first bytes of ``cache``."""
        parts = self._parts
        shape = (len(parts.layers), 2, self.streams * self.batch, parts.kv_heads, self.length, parts.head_dim)
        return buffers([shape], like, cache)[0]

    def _make_network(self) -> Network:
        return Network(self._parts, self._keys_and_values, self.cos, self.sin)

    def _native_step(self, tensors: Tensors) -> DecodeStep | None:
        """A step in C, None where torch is to run it."""
        read = (self._row_adapters, self._slots, self._lengths, self.cos, self.sin)
        return native_step(self._parts, tensors, *read)

    def attach(self, tensors: Tensors | None) -> None:
        """Read these from now on, or none."""
        self._attached, self._native = tensors, None
        self._loras: dict[int, list[RowLoras]] = {}
        if tensors is not None and self._host:
            self._native = self._native_step(tensors)
        self._head.in_c = self._native is not None

    def give(self, adapters: list[int]) -> None:
        """Each of S·B rows decodes with this adapter from now on, in the buffers that a captured step reads."""
        if adapters == self._adapter_of_row:
            return
        self._adapter_of_row = adapters
        self._row_adapters.copy_(torch.tensor(adapters, dtype=torch.int32))
        for Q, rows in self._rows.items():
            rows.adapters.copy_(self._row_adapters.repeat_interleave(Q))

    @property
    def _tensors(self) -> Tensors:
        assert self._attached is not None, "attach() comes first"
        return self._attached

    @property
    def cuts(self) -> bool:
        return True

    @property
    def lengths(self) -> Tensor:
        return self._lengths.view(self.streams, self.batch)

    @torch.no_grad()
    def append(self, tokens: Tensor) -> list[Tensor]:
        if self._host and self._longest + tokens.shape[1] > self.length:
            raise IndexError(f"rows of {self._longest} tokens and {tokens.shape[1]} more do not fit {self.length}")
        parts = [self._append(part) for part in torch.split(tokens, MOST_TOKENS, 1)]
        return parts[0] if len(parts) == 1 else [torch.cat(stream, 1) for stream in zip(*parts, strict=True)]

    def _append(self, tokens: Tensor) -> list[Tensor]:
        """``tokens`` [B, Q], the same for every stream, or [S·B, Q]."""
        B, Q = self.batch, tokens.shape[1]
        rows, tensors = self._rows_of(Q), self._tensors
        with torch.autocast(tokens.device.type, enabled=False):
            residual, positions = embed(tokens, tensors.embedding, self._lengths, self._counters)
            self._longest += Q
            attend, counts = partial(self._attend, Q), [B * Q] * self.streams
            if self._native is not None:
                logits = self._head(tensors, self._native(residual.values, Q), counts)
            elif self._network.is_narrow(tensors, len(positions)):
                self._network.narrow(tensors, residual, positions, rows.slots, self._loras_of(Q), attend)
                logits = self._head.of_residual(tensors, residual, counts)
            else:
                passed = positions, rows.slots, self._loras_of(Q), attend
                logits = self._head(tensors, self._network(tensors, residual.values, *passed), counts)
        return [part.view(B, Q, -1) for part in logits.chunk(self.streams)]

    def copy(self, sources: Rows, targets: Rows) -> None:
        first = torch.arange(self.streams, device=self._lengths.device)[:, None] * self.batch
        pair = checked_rows(sources, targets, self.batch, self._lengths.device)
        # On a device replayed steps have moved on without the host: it copies whole slots.
        positions = self._longest if self._host else self.length
        of, to = ((first + rows).flatten() for rows in pair)
        own = self._adapter_of_row
        if self._host and any(own[a] != own[b] for a, b in zip(of.tolist(), to.tolist(), strict=True)):
            raise ValueError("rows of two preferences do not hold the same, whatever their text: copy none to another")
        self._copy_rows(of, to, positions)
        self._measure()

    def follow(self, origins: Tensor) -> None:
        rows = torch.arange(self.streams, device=origins.device)[:, None] * self.batch + origins
        follow_rows(self._slots, rows.flatten(), self._prompts, self._lengths)

    def truncate(self, lengths: Tensor | Sequence[int]) -> None:
        kept = checked_lengths(lengths, self.lengths).reshape(-1)
        self._lengths.copy_(torch.minimum(self._lengths, kept))
        self._prompts.copy_(torch.minimum(self._prompts, kept))
        self._measure()

    def take_back(self, counts: Tensor) -> None:
        self.lengths.sub_(counts)
        self._measure()

    @torch.no_grad()
    def prefill(self, prompts: list[list[Tensor]], rows: Sequence[int] | None = None) -> list[Tensor]:
        """Read S lists of prompts; a prompt that several rows of a stream share is read once."""
        places = range(self.batch) if rows is None else rows
        slots = [stream * self.batch + row for stream in range(self.streams) for row in places]
        unique = unique_prompts(prompts, [self._adapter_of_row[slot] for slot in slots], slots)
        device = self._lengths.device
        if rows is not None:
            self._clear(slots)
        with torch.autocast(device.type, enabled=False):
            see = partial(self._see, self._keys_and_values)
            parts = chunks(unique, CHUNK_TOKENS)
            last = torch.cat([self._read(part, self._network, self._adapter_of_row, see) for part in parts])
            streams = [slot // self.batch for slot in unique.slots]
            logits = self._head(self._tensors, last, [streams.count(stream) for stream in range(self.streams)])
        lengths = [len(unique.prompts[place]) for place in unique.source]
        self._note_prompts(slots, lengths)
        if len(unique.prompts) == len(unique.source):
            return list(logits.chunk(self.streams))
        readers = [unique.slots[place] for place in unique.source]
        shared = [(reader, slot) for slot, reader in zip(slots, readers, strict=True) if slot != reader]
        of, to = torch.tensor(shared, device=device).unbind(1)
        self._copy_rows(of, to, max(lengths))
        return list(logits[torch.tensor(unique.source, device=device)].chunk(self.streams))

    def _clear(self, slots: list[int]) -> None:
        """Zero what rows of all streams held: it may be NaN, which a weight of zero does not hide."""
        where = torch.tensor(slots, device=self._lengths.device)
        for layer in self.cache:
            live = layer[:, :, : self._longest] if self._host else layer
            live.index_fill_(1, where, 0)

    def _note_prompts(self, slots: list[int], lengths: list[int]) -> None:
        """Rows of all streams hold so many tokens of prompts now."""
        if len(slots) == len(self._lengths):
            self._lengths.copy_(torch.tensor(lengths, dtype=torch.int32))
            self._longest, self._even = max(lengths), min(lengths) == max(lengths)
        else:
            where = torch.tensor(slots, device=self._lengths.device)
            self._lengths[where] = torch.tensor(lengths, dtype=torch.int32, device=where.device)
            self._measure()
        self._prompts.copy_(self._lengths)

    def _read(self, chunk: Chunk, network: Network, owners: Sequence[int], see: See) -> Tensor:
        """Run some prompts' tokens through a network -> the hidden states of those that end a prompt. ``owners``: the
        adapter of each slot."""
        segments = list(chunk.segments(owners))
        hidden = rows_of(self._tensors.embedding, chunk.ids)
        passed = chunk.positions, chunk.slots, segments, partial(see, chunk.spans)
        return network(self._tensors, hidden, *passed)[chunk.ends]

    def _see(self, caches: Sequence[tuple[Tensor, Tensor]], spans: Sequence[Span], layer: int, query: Tensor) -> Tensor:
        """Attention of prompts' tokens over the layer's keys and values of ``caches``."""
        window = self._tensors.layers[layer].window
        return prefill_attention(query, *caches[layer], spans, self._parts.scale, window)

    def _copy_rows(self, sources: Tensor, targets: Tensor, positions: int) -> None:
        """Rows [n] of all streams: their first keys and values, and their lengths."""
        origin = origins(sources, targets, len(self._lengths))
        for layer in self.cache:  # what is on its way takes memory beside the cache: not all layers at once
            live = layer[:, :, :positions]
            copied_rows(live, 1, origin)
        copied_rows(self._lengths, 0, origin)

    def _measure(self) -> None:
        """Read the lengths again on a CPU, which alone goes by them; elsewhere that would be a wait."""
        if self._host:
            self._longest, shortest = int(self._lengths.max()), int(self._lengths.min())
            self._even = self._longest == shortest

    def _attend(self, Q: int, layer: int, query: Tensor) -> Tensor:
        """[R·Q, H, D], the newest tokens, over everything cached."""
        query = query.view(-1, Q, *query.shape[1:])
        window, scale = self._tensors.layers[layer].window, self._parts.scale
        keys, values = self._keys_and_values[layer]
        if self._host:
            return host_attention(query, keys, values, self._lengths, scale, window, self._longest, self._even)
        return decode_attention(query, keys, values, self._lengths, scale, window, self._attention, self._arrivals)

    def _rows_of(self, Q: int) -> PassRows:
        if Q not in self._rows:
            slots = torch.arange(len(self._row_adapters), device=self._lengths.device).repeat_interleave(Q)
            self._rows[Q] = PassRows(slots if Q > 1 else None, self._row_adapters.repeat_interleave(Q))
        return self._rows[Q]

    def _loras_of(self, Q: int) -> list[RowLoras]:
        if Q not in self._loras:
            self._loras[Q] = row_loras(self._tensors.layers, self._rows_of(Q).adapters)
        return self._loras[Q]
