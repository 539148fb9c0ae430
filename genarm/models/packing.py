"""Prompts packed one behind the other for prefill: each one once, in chunks that bound the memory of a pass."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from .attention import Span


@dataclass(frozen=True, slots=True)
class Unique:
    """The different prompts of S·B rows. ``source`` says which of them is each row's."""

    prompts: list[Tensor]
    slots: list[int]  # the first row that has it
    source: list[int]


@dataclass(frozen=True, slots=True)
class Chunk:
    """N tokens of some prompts, in order: their ids, positions and slots [N], and where in the pass prompts end."""

    ids: Tensor
    positions: Tensor
    slots: Tensor
    spans: list[Span]
    ends: list[int]

    def segments(self) -> Iterator[tuple[int, int, int]]:
        """(slot, first token, the one after the last) of each span."""
        start = 0
        for span in self.spans:
            yield span.row, start, start + span.count
            start += span.count


def unique_prompts(prompts: Sequence[Sequence[Tensor]]) -> Unique:
    """S lists of B prompts, row s·B + b: rows of one stream share a prompt, rows of two streams never do."""
    found: dict[tuple[int, tuple[int, ...]], int] = {}
    unique = Unique([], [], [])
    row = 0
    for stream, rows in enumerate(prompts):
        for prompt in rows:
            key = (stream, tuple(prompt.tolist()))
            if key not in found:
                found[key] = len(unique.prompts)
                unique.prompts.append(prompt)
                unique.slots.append(row)
            unique.source.append(found[key])
            row += 1
    return unique


def chunks(unique: Unique, most: int) -> Iterator[Chunk]:
    """Every token of the prompts once, at most ``most`` a chunk; a long prompt goes on in the next."""
    parts: list[Tensor] = []
    spans: list[Span] = []
    ends: list[int] = []
    room = most
    for prompt, slot in zip(unique.prompts, unique.slots, strict=True):
        start = 0
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
