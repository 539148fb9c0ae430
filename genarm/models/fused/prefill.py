"""Prompts for prefill: each one once, packed one behind the other in chunks that bound the memory of a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import accumulate, groupby

import torch
from torch import Tensor

from .attention import Span

ID_BYTES = 8  # of a token's id, int64


@dataclass(frozen=True, slots=True)
class Unique:
    """The different prompts of S·B rows. ``source`` says which of them is each row's. ``starts``: how many tokens of
    each were read before, none where it is empty."""

    prompts: list[Tensor]
    slots: list[int]  # the first row that has it
    source: list[int]
    starts: Sequence[int] = ()


@dataclass(frozen=True, slots=True)
class Chunk:
    """N tokens of some prompts, in order: their ids, positions and slots [N], and where in the pass prompts end."""

    ids: Tensor
    positions: Tensor
    slots: Tensor
    spans: list[Span]
    ends: list[int]

    def segments(self, owners: Sequence[int]) -> Iterator[tuple[int, int, int]]:
        """(owner, first token, the one after the last) of neighbouring tokens whose slots have one owner."""
        start = 0
        for owner, run in groupby(self.spans, lambda span: owners[span.row]):
            stop = start + sum(span.count for span in run)
            yield owner, start, stop
            start = stop


def id_bytes(prompts: Sequence[Tensor]) -> list[bytes]:
    """The ids of prompts, 1-D int64, as they lie in memory; one wait for their device."""
    held = memoryview(torch.cat(list(prompts)).cpu().numpy().tobytes())
    ends = list(accumulate(len(prompt) * ID_BYTES for prompt in prompts))
    return [bytes(held[start:end]) for start, end in zip([0, *ends], ends, strict=False)]


def distinct(prompts: Sequence[Tensor], readers: Sequence[int] | None = None) -> list[int]:
    """For each of B prompts, 1-D int64, the first row that holds the same; one wait for their device.

    ``readers``: rows with different ones are never the same, whatever they hold.
    """
    first: dict[tuple[int, bytes], int] = {}
    keys = zip(readers or [0] * len(prompts), id_bytes(prompts), strict=True)
    return [first.setdefault(key, row) for row, key in enumerate(keys)]


def unique_prompts(
    prompts: Sequence[Sequence[Tensor]], adapters: Sequence[int] | None = None, slots: Sequence[int] | None = None
) -> Unique:
    """S lists of B prompts, in ``slots`` [S·B], by default s·B + b: rows of one stream share a prompt unless they have
    different ``adapters`` [S·B]; rows of two streams never do."""
    unique = Unique([], [], [])
    for rows in prompts:
        first_slot, places = len(unique.source), {}
        for row, first in enumerate(distinct(rows, adapters and adapters[first_slot : first_slot + len(rows)])):
            if first == row:
                places[row] = len(unique.prompts)
                unique.prompts.append(rows[row])
                unique.slots.append(first_slot + row if slots is None else slots[first_slot + row])
            unique.source.append(places[first])
    return unique


def chunks(unique: Unique, most: int) -> Iterator[Chunk]:
    """Every token of the prompts that was not read yet, once, at most ``most`` a chunk; a long prompt goes on in the
    next."""
    parts: list[Tensor] = []
    spans: list[Span] = []
    ends: list[int] = []
    room = most
    starts = unique.starts or [0] * len(unique.prompts)
    for prompt, slot, start in zip(unique.prompts, unique.slots, starts, strict=True):
        while start < len(prompt):
            count = min(room, len(prompt) - start)
            parts.append(prompt[start : start + count])
            spans.append(Span(slot, start, count))
            start, room = start + count, room - count
            if start == len(prompt):
                ends.append(most - room - 1)
            if not room:
                yield _chunk(parts, spans, ends)
                parts, spans, ends, room = [], [], [], most
    if parts:
        yield _chunk(parts, spans, ends)


def _chunk(parts: list[Tensor], spans: list[Span], ends: list[int]) -> Chunk:
    device = parts[0].device
    positions = torch.cat([torch.arange(span.start, span.start + span.count) for span in spans])
    slots = torch.cat([torch.full((span.count,), span.row) for span in spans])
    return Chunk(torch.cat(parts), positions.to(device, torch.int32), slots.to(device, torch.int32), spans, ends)
