"""A transformers model's weights as the fused decoder reads them, shared by every decoder on that model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import nn

from .families import LayerParts, Parts, read_parts
from .fused_linear import Columns, FusedLinear, Pairs
from .stream_adapter import Layers

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


@dataclass(frozen=True, slots=True)
class FusedLayer:
    """One decoder layer's four fused linears, and the parts that are not linear."""

    parts: LayerParts
    qkv: FusedLinear
    out: FusedLinear
    gate_up: FusedLinear
    down: FusedLinear

    @property
    def fused(self) -> tuple[FusedLinear, ...]:
        return self.qkv, self.out, self.gate_up, self.down


@dataclass(frozen=True, slots=True)
class LayerColumns:
    """What one user's forward pass reads of a FusedLayer."""

    parts: LayerParts
    qkv: Columns
    out: Columns
    gate_up: Columns
    down: Columns


class FusedWeights:
    """The fused linears of one model and the adapters behind their rows.

    Decoders come and go, each with its adapters: the rows hold the union of what the living ones use, and are laid out
    anew when one needs an adapter that is not there. ``generation`` counts the layouts.
    """

    def __init__(self, model: Any) -> None:
        self.parts: Parts = read_parts(model)
        self.layers = [
            FusedLayer(layer, *(FusedLinear([layer.linears[name] for name in group]) for group in GROUPS))
            for layer in self.parts.layers
        ]
        self.head = FusedLinear([self.parts.head])
        self.adapters: list[Layers] = []
        self.generation = 0
        self._users: WeakKeyDictionary[Any, list[Layers]] = WeakKeyDictionary()

    def admit(self, user: Any, adapters: Sequence[Layers]) -> None:
        """Hold these adapters as long as ``user`` lives."""
        self._users[user] = list(adapters)
        self.refresh()

    def refresh(self) -> None:
        """Lay the rows out anew if an adapter is missing, or the model's parameters were replaced."""
        wanted = [adapter for adapters in self._users.values() for adapter in adapters]
        missing = [adapter for adapter in wanted if self._place(adapter) is None]
        current = all(fused.is_current for layer in self.layers for fused in layer.fused)
        if not missing and current:
            return
        kept = [adapter for adapter in self.adapters if any(_same(adapter, one) for one in wanted)]
        for adapter in missing:
            if not any(_same(adapter, one) for one in kept):
                kept.append(adapter)
        for layer in self.layers:
            for group, fused in zip(GROUPS, layer.fused, strict=True):
                fused.fuse([_pairs(adapter, layer.parts, group) for adapter in kept])
        self.adapters = kept
        self.generation += 1

    def index(self, adapter: Layers) -> int:
        """Where an adapter that was admitted stands among the rows."""
        place = self._place(adapter)
        assert place is not None
        return place

    def columns(self, adapters: int) -> list[LayerColumns]:
        """Every layer's own rows and those of the first ``adapters`` adapters."""
        return [LayerColumns(layer.parts, *(fused.columns(adapters) for fused in layer.fused)) for layer in self.layers]

    def _place(self, adapter: Layers) -> int | None:
        return next((place for place, one in enumerate(self.adapters) if _same(one, adapter)), None)


_WEIGHTS: WeakKeyDictionary[nn.Module, FusedWeights] = WeakKeyDictionary()


def fused_weights(model: nn.Module) -> FusedWeights:
    """The one FusedWeights of a transformers model."""
    if model not in _WEIGHTS:
        _WEIGHTS[model] = FusedWeights(model)
    return _WEIGHTS[model]


def _pairs(adapter: Layers, layer: LayerParts, group: tuple[str, ...]) -> Pairs:
    return [adapter.get(layer.paths[name]) for name in group]


def _same(one: Layers, other: Layers) -> bool:
    if one is other:
        return True
    return one.keys() == other.keys() and all(
        torch.equal(mine, its) for name in one for mine, its in zip(one[name], other[name], strict=True)
    )
