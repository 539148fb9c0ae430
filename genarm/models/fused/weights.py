"""A transformers model's weights as the fused decoder reads them, shared by every decoder on that model."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary, WeakSet

import torch
from torch import Tensor, nn

from .families import LayerParts, Parts, read_parts
from .linear import Columns, FusedLinear, Pairs
from .streams import Layers

GROUPS = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))


@dataclass(frozen=True, slots=True)
class LayerTensors:
    """What a forward pass reads of one decoder layer."""

    attention_norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    window: int  # 0 is all positions
    qkv: Columns
    out: Columns
    gate_up: Columns
    down: Columns


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a forward pass reads of a model. It stays as it is when the weights are laid out anew or move elsewhere."""

    layers: list[LayerTensors]
    embedding: Tensor
    norm: Tensor
    head: Tensor
    head_bias: Tensor | None
    adapters: list[int]  # where each of the caller's adapters stands among the rows


class FusedWeights:
    """The fused linears of one model and the adapters behind their rows.

    Decoders come and go, each with its adapters: the rows hold the union of what the living ones use, and are laid out
    anew when one needs an adapter that is not there. ``generation`` counts the layouts. Adapters are held once: those
    that ``admit`` gives back are views of the rows. ``readers`` keep sessions; their ``forget`` is called ahead of a
    new layout, so that idle ones do not keep the old one alive.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._fused = [
            [FusedLinear([layer.linears[name] for name in group]) for group in GROUPS] for layer in parts.layers
        ]
        self._adapters: list[Layers] = []
        self._complete = False
        self._generation = 0
        self._users: WeakKeyDictionary[Any, list[Layers]] = WeakKeyDictionary()
        self.readers: WeakSet[Any] = WeakSet()
        self._lock = RLock()

    @property
    def generation(self) -> int:
        """Which layout the next session reads."""
        with self._lock:
            self._refresh()
            return self._generation

    def admit(self, user: Any, adapters: Sequence[Layers]) -> list[Layers]:
        """Hold these adapters as long as ``user`` lives -> what to call them by."""
        like = self.parts.head.weight.data
        with self._lock:
            wanted = self._wanted()
            held: list[Layers] = []
            for adapter in adapters:
                own = {name: (down.to(like), up.to(like)) for name, (down, up) in adapter.items()}
                held.append(next((one for one in (*wanted, *held) if _same(one, own)), own))
            self._users[user] = held
            self._refresh()
            return held

    def tensors(self, adapters: Sequence[Layers]) -> Tensors:
        """What a user with these adapters, as ``admit`` called them, reads now."""
        with self._lock:
            self._refresh()
            places = [next(place for place, one in enumerate(self._adapters) if one is adapter) for adapter in adapters]
            columns = max(places, default=-1) + 1
            layers = zip(self.parts.layers, self._fused, strict=True)
            with torch.inference_mode(False):
                return Tensors(
                    [_layer_tensors(parts, [one.columns(columns) for one in fused]) for parts, fused in layers],
                    _tensor(self.parts.embedding),
                    _tensor(self.parts.norm),
                    _tensor(self.parts.head),
                    None if self.parts.head.bias is None else self.parts.head.bias.data,
                    places,
                )

    def _wanted(self) -> list[Layers]:
        return [one for adapters in self._users.values() for one in adapters]

    def _missing(self) -> list[Layers]:
        """Adapters that somebody wants and the rows do not hold, each once."""
        missing: list[Layers] = []
        for one in self._wanted():
            if not _is_in(one, [*self._adapters, *missing]):
                missing.append(one)
        return missing

    def _refresh(self) -> None:
        """Lay the rows out anew if an adapter is missing, or the model's parameters were replaced."""
        current = all(linear.is_current for fused in self._fused for linear in fused)
        if self._complete and current and not self._missing():
            return
        for reader in list(self.readers):
            reader.forget()
        wanted = self._wanted()  # what readers let go of is not among it
        kept = [one for one in self._adapters if _is_in(one, wanted)] + self._missing()
        self._complete = False  # until the last layer: where memory runs out, some are laid out and some are not
        self._adapters = kept
        # Parameters become views of the rows, and must be trainable later.
        with torch.inference_mode(False), torch.no_grad():
            for layer, fused in zip(self.parts.layers, self._fused, strict=True):
                for group, linear in zip(GROUPS, fused, strict=True):
                    _lay_out(linear, [layer.paths[name] for name in group], kept)
        self._complete = True
        self._generation += 1


_WEIGHTS: WeakKeyDictionary[nn.Module, FusedWeights] = WeakKeyDictionary()
_LOCK = RLock()


def fused_weights(model: nn.Module) -> FusedWeights:
    """The one FusedWeights of a transformers model; a new one where layers of it were replaced."""
    with _LOCK:
        found = _WEIGHTS.get(model)
        parts = read_parts(model)
        if found is None or not _are_same(found.parts.modules, parts.modules):
            found = _WEIGHTS[model] = FusedWeights(parts)
        return found


def _are_same(some: Sequence[nn.Module], others: Sequence[nn.Module]) -> bool:
    return len(some) == len(others) and all(one is other for one, other in zip(some, others, strict=True))


def _lay_out(fused: FusedLinear, paths: Sequence[str], adapters: Sequence[Layers]) -> None:
    """One fused linear with the adapters' A behind it, who from then on are views of its rows."""
    pairs: list[Pairs] = [[adapter.get(path) for path in paths] for adapter in adapters]
    for adapter, views in zip(adapters, fused.fuse(pairs), strict=True):
        adapter.update({path: view for path, view in zip(paths, views, strict=True) if view is not None})


def _layer_tensors(parts: LayerParts, columns: Sequence[Columns]) -> LayerTensors:
    q_norm = None if parts.q_norm is None else _tensor(parts.q_norm)
    k_norm = None if parts.k_norm is None else _tensor(parts.k_norm)
    return LayerTensors(_tensor(parts.attention_norm), _tensor(parts.mlp_norm), q_norm, k_norm, parts.window, *columns)


def _tensor(module: Any) -> Tensor:
    weight: Tensor = module.weight.data
    return weight


def _is_in(adapter: Layers, adapters: Sequence[Layers]) -> bool:
    return any(adapter is one for one in adapters)


def _same(one: Layers, other: Layers) -> bool:
    if one.keys() != other.keys():
        return False
    pairs = [pair for name in one for pair in zip(one[name], other[name], strict=True)]
    return all(
        mine.shape == its.shape and mine.dtype == its.dtype and mine.device == its.device and torch.equal(mine, its)
        for mine, its in pairs
    )
