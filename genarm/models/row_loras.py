"""The LoRA expands of a pass: which of the adapters on the fused linears, and on the head, each row has."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import NamedTuple

import torch
from torch import Tensor

from genarm_kernels.lora import Lora

from .fused_weights import LayerTensors
from .stream_adapter import Layers


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
            z[start:stop, first : first + columns].addmm_(h, up.t())
            first += columns
    return z[:, :width]


def row_loras(layers: Sequence[LayerTensors], adapters: Tensor) -> list[RowLoras]:
    """Every layer's expands for rows with these adapters, [N] int32, −1 for none."""
    masks: dict[int, Tensor] = {}
    return [
        RowLoras(
            *(lora_on_rows(columns.lora, adapters, masks) for columns in (one.qkv, one.out, one.gate_up, one.down))
        )
        for one in layers
    ]


def lora_on_rows(lora: Lora | None, adapters: Tensor, masks: dict[int, Tensor], dense: bool = False) -> Lora | None:
    """The expand for rows with these adapters; what does not depend on the rows, or not on the layer, is shared.

    ``dense``: in torch operations on a GPU too.
    """
    if lora is None:
        return None
    own = replace(lora, adapters=adapters)
    if dense or not adapters.is_cuda:
        own.__dict__["dense"] = lora.dense
        own.__dict__["mask"] = masks.setdefault(lora.shrinks, own.mask)
    return own


def without_head(layers: Layers) -> Layers:
    """An adapter's layers but for the LM head."""
    return {name: pair for name, pair in layers.items() if name != "lm_head"}


def head_lora(pairs: Sequence[tuple[Tensor, Tensor] | None], head: Tensor) -> tuple[Tensor, Lora] | None:
    """LoRA on the LM head, which may be the embedding too and so stays as it is: A [S·rank, H], and the expand."""
    rank = max((len(pair[0]) for pair in pairs if pair), default=0)
    if not rank:
        return None
    down = head.new_zeros(len(pairs), rank, head.shape[1])
    up = head.new_zeros(len(pairs), head.shape[0], rank)
    for index, pair in enumerate(pairs):
        if pair is not None:
            down[index, : len(pair[0])] = pair[0]
            up[index, :, : len(pair[0])] = pair[1]
    return down.flatten(0, 1), Lora(up, torch.empty(0), (head.shape[0],))
