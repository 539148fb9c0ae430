"""The LoRA expands of a pass: which of the adapters on the fused linears, and on the head, each row has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn import functional as F

from genarm_kernels.layer.lora import Lora
from genarm_kernels.native.choice import takes

from .linear import Columns, Pair
from .weights import LayerTensors


class RowLoras(NamedTuple):
    """One layer's expands for the rows of a pass."""

    qkv: Lora | None
    out: Lora | None
    gate_up: Lora | None
    down: Lora | None


class PassRows(NamedTuple):
    """The rows of a pass of Q tokens each, row by row: places in the cache, and adapters.

    A captured step reads them where they were at its capture."""

    slots: Tensor | None
    adapters: Tensor


NO_LORAS = RowLoras(None, None, None, None)
# (adapter or −1, first token, the one after the last), one behind the other
Segments = Sequence[tuple[int, int, int]]


def expand_segments(z: Tensor, lora: Lora | None, segments: Segments) -> Tensor:
    """z [N, out + shrinks] -> [N, out], a view in which every segment has its adapter's expand added.

    For many tokens: a product a segment and target, where the decoding kernels read B anew for each row.
    """
    if lora is None:
        return z
    targets, rank, width = len(lora.widths), lora.rank, sum(lora.widths)
    for adapter, start, stop in segments:
        first = 0
        for target, columns in enumerate(lora.widths if adapter >= 0 else ()):
            shrink = width + (adapter * targets + target) * rank
            h, up = z[start:stop, shrink : shrink + rank], lora.up[adapter, first : first + columns]
            _add_product(z[start:stop, first : first + columns], h, up)
            first += columns
    return z[:, :width]


def _add_product(total: Tensor, h: Tensor, up: Tensor) -> None:
    """total [n, N] += h [n, r] @ upᵀ, up [N, r]; in float32 where torch has no fast product in the dtype."""
    if total.dtype != torch.float32 and takes(total.dtype, total.device):
        total.copy_(total.float().addmm_(h.float(), up.float().t()))
    else:
        total.addmm_(h, up.t())


def row_loras(layers: Sequence[LayerTensors], adapters: Tensor) -> list[RowLoras]:
    """Every layer's expands for rows with these adapters, [N] int32, −1 for none."""

    def on_rows(columns: Columns) -> Lora | None:
        return None if columns.lora is None else replace(columns.lora, adapters=adapters)

    return [RowLoras(*map(on_rows, (one.qkv, one.out, one.gate_up, one.down))) for one in layers]


@dataclass(frozen=True, slots=True)
class HeadLora:
    """LoRA on the LM head, which may be the embedding too and so stays as it is: A [S, r, H] and Bᵀ [S, r, V] of S
    streams, None for one that has none."""

    down: Sequence[Tensor | None]
    up: Sequence[Tensor | None]

    def add_to(self, logits: Tensor, hidden: Tensor, counts: Sequence[int]) -> Tensor:
        """logits [N, V] of hidden states [N, H], so many rows of each stream's, written over and returned."""
        start = 0
        for down, up, count in zip(self.down, self.up, counts, strict=True):
            own = slice(start, start + count)
            if down is not None and up is not None:
                logits[own].addmm_(F.linear(hidden[own], down), up)
            start += count
        return logits

    def write(self, index: int, pair: Pair) -> None:
        """Put stream ``index``'s pair, of the rank it had, to its place."""
        down, up = self.down[index], self.up[index]
        assert down is not None and up is not None
        down.copy_(pair.down)
        up.copy_((pair.up if pair.scale == 1.0 else pair.up * pair.scale).t())


def head_lora(pairs: Sequence[Pair | None], head: Tensor) -> HeadLora | None:
    """What S streams' adapters do to the head [V, H]; None for nothing."""
    if not any(pairs):
        return None
    down = [None if pair is None else head.new_empty(pair.down.shape) for pair in pairs]
    up = [None if pair is None else head.new_empty(pair.up.shape[::-1]) for pair in pairs]
    found = HeadLora(down, up)
    for index, pair in enumerate(pairs):
        if pair is not None:
            found.write(index, pair)
    return found
