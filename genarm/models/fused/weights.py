"""A transformers model's weights as the fused decoder reads them, shared by every decoder on that model."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from threading import RLock
from typing import Any
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from .families import LayerParts, Parts, read_parts
from .linear import Columns, FusedLinear
from .streams import StreamLora

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

    @property
    def products(self) -> tuple[Columns, ...]:
        return self.qkv, self.out, self.gate_up, self.down


@dataclass(frozen=True, slots=True)
class Tensors:
    """What a forward pass reads of a model. It stays as it is when the weights are laid out anew or move elsewhere."""

    layers: list[LayerTensors]
    embedding: Tensor
    norm: Tensor
    head: Tensor
    head_bias: Tensor | None
    adapters: list[int]  # for each of the user's streams, its place among the adapters, −1 for none

    def places(self) -> list[int]:
        """Where all of it lies: what a captured step must find again, and which adapters it reads."""
        found = [self.embedding, self.norm, self.head, self.head_bias]
        for layer in self.layers:
            found += [layer.attention_norm, layer.mlp_norm, layer.q_norm, layer.k_norm]
            for columns in layer.products:
                found += [columns.weight, columns.bias, None if columns.lora is None else columns.lora.up]
        pointers = [0 if tensor is None else tensor.data_ptr() for tensor in found]
        ranks = [columns.lora.rank for layer in self.layers for columns in layer.products if columns.lora]
        return [*pointers, len(self.head), *ranks, *self.adapters]


class FusedWeights:
    """The fused linears of one model and the adapters behind their rows.

    Decoders come and go, each with its adapters: the rows hold the union of what the living ones use, and are laid out
    anew when one needs an adapter that is not there, or when the parameters were moved or replaced. Adapters read from
    files are held once, whoever uses them; those of PEFT layers inside the module are live, and written anew each time
    their user asks. The memory belongs to the module's parameters alone.
    """

    def __init__(self, parts: Parts) -> None:
        self.parts = parts
        self._fused = [
            [FusedLinear([layer.linears[name] for name in group]) for group in GROUPS] for layer in parts.layers
        ]
        self._users: WeakKeyDictionary[Any, list[StreamLora]] = WeakKeyDictionary()
        self._places: WeakKeyDictionary[Any, list[int]] = WeakKeyDictionary()
        self._lock = RLock()

    def tensors(self, user: Any, streams: Sequence[StreamLora]) -> Tensors:
        """What ``user`` reads now, whose streams have these adapters. They are held as long as it lives."""
        with self._lock, torch.inference_mode(False), torch.no_grad():  # parameters, to be trained later, become views
            self._admit(user, list(streams))
            places = self._places[user]
            columns = max(places, default=-1) + 1
            layers = zip(self.parts.layers, self._fused, strict=True)
            return Tensors(
                [_layer_tensors(parts, [one.columns(columns) for one in fused]) for parts, fused in layers],
                _tensor(self.parts.embedding),
                _tensor(self.parts.norm),
                _tensor(self.parts.head),
                None if self.parts.head.bias is None else self.parts.head.bias.data,
                list(places),
            )

    def gate_up_width(self) -> int:
        """Columns of the widest product of the gate and up, the adapters' shrinks included."""
        return max(fused[2].height for fused in self._fused)

    def invalidate(self) -> None:
        """Lay everything out anew when it is read next, adapters from where they came."""
        with self._lock:
            self._places.clear()

    def _admit(self, user: Any, streams: list[StreamLora]) -> None:
        before = self._users.get(user, [])
        self._users[user] = streams
        if not all(linear.is_laid_out for fused in self._fused for linear in fused):
            self._places.clear()
        if user not in self._places:
            self._places[user] = self._found_places(streams) if self._places else []
        if len(self._places[user]) < len(streams):
            self._lay_out()
        else:
            for index, (place, stream) in enumerate(zip(self._places[user], streams, strict=True)):
                if stream.live and not (index < len(before) and before[index] is stream):
                    self._write(place, stream)

    def _found_places(self, streams: Sequence[StreamLora]) -> list[int]:
        """Where others' adapters stand that these are too; shorter where one is not there."""
        there = [pair for user, places in self._places.items() for pair in zip(self._users[user], places, strict=True)]
        places: list[int] = []
        for stream in streams:
            place = -1 if not stream.pairs else next((at for one, at in there if one.stands_for(stream)), None)
            if place is None:
                break
            places.append(place)
        return places

    def _lay_out(self) -> None:
        """Rows for all that the living users' streams need."""
        self._places.clear()  # until the last layer: where memory runs out, some are laid out and some are not
        adapters: list[StreamLora] = []
        places: dict[Any, list[int]] = {}
        for user, streams in list(self._users.items()):
            for stream in streams:
                known = next((at for at, one in enumerate(adapters) if one.stands_for(stream)), None)
                if known is None and stream.pairs:
                    known = len(adapters)
                    adapters.append(stream)
                places.setdefault(user, []).append(-1 if known is None else known)
        for linear, paths in self._linears():
            linear.lay_out([[stream.pairs.get(path) for path in paths] for stream in adapters])
        self._places.update(places)

    def _write(self, place: int, stream: StreamLora) -> None:
        for linear, paths in self._linears():
            pairs = [stream.pairs.get(path) for path in paths]
            if any(pairs):
                linear.write(place, pairs)

    def _linears(self) -> Iterator[tuple[FusedLinear, list[str]]]:
        """Every fused linear, with its layers' names in the model."""
        for layer, fused in zip(self.parts.layers, self._fused, strict=True):
            for group, linear in zip(GROUPS, fused, strict=True):
                yield linear, [layer.paths[name] for name in group]


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


def _layer_tensors(parts: LayerParts, columns: Sequence[Columns]) -> LayerTensors:
    q_norm = None if parts.q_norm is None else _tensor(parts.q_norm)
    k_norm = None if parts.k_norm is None else _tensor(parts.k_norm)
    return LayerTensors(_tensor(parts.attention_norm), _tensor(parts.mlp_norm), q_norm, k_norm, parts.window, *columns)


def _tensor(module: Any) -> Tensor:
    weight: Tensor = module.weight.data
    return weight
