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
    """LoRA on the LM head, which may be the embedding too and so stays as it is: A [S·r, H] and Bᵀ [S·r, V] of S
    streams, zero for one that has none."""

    down: Tensor
    up: Tensor
    streams: int

    def mask(self, streams: Tensor) -> Tensor:
        """[N, S·r], 1 where a column is of the row's own stream, [N] int32."""
        owners = torch.arange(self.streams, device=streams.device).repeat_interleave(len(self.down) // self.streams)
        return (owners == streams[:, None]).to(self.down.dtype)

    def add_to(self, logits: Tensor, hidden: Tensor, mask: Tensor) -> Tensor:
        """logits [N, V] of hidden states [N, H], written over and returned."""
        return logits.addmm_(F.linear(hidden, self.down) * mask, self.up)

    def write(self, index: int, pair: Pair) -> None:
        """Put stream ``index``'s pair to its place, for which there is room."""
        rank = len(self.down) // self.streams
        rows = slice(index * rank, index * rank + len(pair.down))
        self.down[rows].copy_(pair.down)
        self.up[rows].copy_((pair.up if pair.scale == 1.0 else pair.up * pair.scale).t())


def head_lora(pairs: Sequence[Pair | None], head: Tensor) -> HeadLora | None:
    """What S streams' adapters do to the head [V, H]; None for nothing."""
    rank = max((len(pair.down) for pair in pairs if pair), default=0)
    if not rank:
        return None
    down, up = (head.new_zeros(len(pairs) * rank, size) for size in (head.shape[1], head.shape[0]))
    found = HeadLora(down, up, len(pairs))
    for index, pair in enumerate(pairs):
        if pair is not None:
            found.write(index, pair)
    return found
