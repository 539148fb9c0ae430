"""Several streams on one set of weights: the base and LoRA reward models on it, in one pass.

A model's tokens meet each other in its attention alone. So S streams of N tokens go through a model of vLLM's as S·N
tokens, stream after stream, and every layer reads its weights once; only attention is split, with a key-value cache per
stream, and behind a linear layer each stream's own B(Ax) is added.
"""

from __future__ import annotations

import copy
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from vllm.model_executor.layers.attention import Attention
from vllm.model_executor.layers.linear import (
    ColumnParallelLinear,
    LinearBase,
    MergedColumnParallelLinear,
    QKVParallelLinear,
    RowParallelLinear,
)

from ..errors import UnsupportedAdapterError, UnsupportedModelError
from ..models.activation import IN_VLLM, refuse_activated
from ..models.adapters import CURE, LoraAdapter

QKV = ("q", "k", "v")


class StreamAttention(nn.Module):
    """One attention layer per stream. Takes and returns [S·N, …], stream after stream."""

    def __init__(self, first: Attention, streams: int, layers: dict[str, Any]) -> None:
        super().__init__()
        self.layers = nn.ModuleList([first])
        for index in range(1, streams):
            twin = copy.deepcopy(first)  # before any cache is bound: a few numbers
            twin.layer_name = f"{first.layer_name}.stream{index}"
            layers[twin.layer_name] = twin
            self.layers.append(twin)

    def forward(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        parts = [tensor.chunk(len(self.layers)) for tensor in (query, key, value)]
        return torch.cat([layer(*rows) for layer, *rows in zip(self.layers, *parts, strict=True)])

    def __getattr__(self, name: str) -> Any:
        """What models ask of their attention layer (head sizes, scales) is the same for all streams."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            layers: Any = super().__getattr__("layers")
            return getattr(layers[0], name)


def split_attention(model: nn.Module, streams: int, layers: dict[str, Any]) -> None:
    """Give each of ``model``'s attention layers one cache per stream. ``layers``: the engine's, by name."""
    known = {id(layer) for layer in layers.values()}
    found = [(name, layer) for name, layer in model.named_modules() if id(layer) in known]
    for name, layer in found:
        if type(layer) is not Attention:
            raise UnsupportedModelError(
                f"{type(model).__name__} has a {type(layer).__name__}, which cannot be split over LoRA reward models: "
                "merge each adapter into its model and pass the full model"
            )
        parent, _, leaf = name.rpartition(".")
        setattr(model.get_submodule(parent), leaf, StreamAttention(layer, streams, layers))
    if not found:
        raise UnsupportedModelError(f"{type(model).__name__} has no attention layers of vLLM's")


def put_adapters(model: nn.Module, adapters: Sequence[LoraAdapter | None]) -> None:
    """Add each stream's adapter behind ``model``'s linear layers; a stream without one is None.

    Raises:
        UnsupportedAdapterError: an adapter that does not fit, or that is more than linear layers' A and B.
    """
    places = _places(model)
    wanted: dict[str, dict[int, list[tuple[Any, Tensor, Tensor]]]] = {}
    for stream, adapter in enumerate(adapters):
        if adapter is None:
            continue
        _check_adapter(adapter, places)
        for name, (down, up, _bias) in adapter.layers.items():
            module, shard = places[name]
            wanted.setdefault(module, {}).setdefault(stream, []).append((shard, down, up))
    for module, by_stream in wanted.items():
        layer: Any = model.get_submodule(module)
        _put(layer, module, len(adapters), by_stream)


def _check_adapter(adapter: LoraAdapter, places: dict[str, tuple[str, Any]]) -> None:
    refuse_activated(adapter.path, adapter.activation, *IN_VLLM)
    if adapter.frozen:
        raise UnsupportedAdapterError(f"{adapter.path}: it brings weights beside A and B: {CURE}")
    for name, (_down, _up, bias) in adapter.layers.items():
        if name not in places:
            raise UnsupportedAdapterError(
                f"{adapter.path}: the base has no linear layer {name!r} in vLLM: the adapter was made for another "
                f"architecture, or: {CURE}"
            )
        if bias is not None:
            raise UnsupportedAdapterError(f"{adapter.path}: {name} has a bias beside A and B: {CURE}")
    lacking = [name for name in places if adapter.is_target(name) and name not in adapter.layers]
    if lacking:
        raise UnsupportedAdapterError(
            f"{adapter.path}: it targets {len(lacking)} layers it has no weights for ({lacking[0]}, …): it is "
            "incomplete or was made for another architecture"
        )


def _places(model: Any) -> dict[str, tuple[str, Any]]:
    """A linear layer's name in checkpoints -> the module that holds it in vLLM, and its part of that."""
    packed = getattr(model, "packed_modules_mapping", {})
    places: dict[str, tuple[str, Any]] = {}
    for name, layer in model.named_modules():
        if not isinstance(layer, LinearBase):
            continue
        parent, _, leaf = name.rpartition(".")
        parts = packed.get(leaf, [leaf])
        if isinstance(layer, QKVParallelLinear) and len(parts) == len(QKV):
            shards: Sequence[Any] = QKV
        elif isinstance(layer, MergedColumnParallelLinear) and len(parts) == len(layer.output_sizes):
            shards = range(len(parts))
        elif len(parts) == 1 and not isinstance(layer, QKVParallelLinear | MergedColumnParallelLinear):
            shards = (None,)
        else:
            continue
        places.update({f"{parent}.{part}": (name, shard) for part, shard in zip(parts, shards, strict=True)})
    return places


def _put(layer: Any, name: str, streams: int, by_stream: dict[int, list[tuple[Any, Tensor, Tensor]]]) -> None:
    """A [S, in, R] and B [S, R, out] of one module on this rank, zero where a stream adds nothing; R is the widest
    stream's sum of ranks."""
    inputs, outputs = layer.weight.shape[1], layer.weight.shape[0]
    width = max(sum(down.shape[0] for _, down, _ in parts) for parts in by_stream.values())
    all_down = torch.zeros(streams, inputs, width, dtype=layer.weight.dtype)
    all_up = torch.zeros(streams, width, outputs, dtype=layer.weight.dtype)
    for stream, parts in by_stream.items():
        begin = 0
        for shard, down, up in parts:
            end = begin + down.shape[0]
            all_down[stream, :, begin:end] = _own_inputs(layer, name, down).T.to(all_down)
            all_up[stream, begin:end] = _own_outputs(layer, name, up, shard).T.to(all_up)
            begin = end
    first = min(by_stream)  # streams before it, the base's as a rule, add nothing
    layer.register_buffer("genarm_down", all_down[first:].contiguous().to(layer.weight.device), persistent=False)
    layer.register_buffer("genarm_up", all_up[first:].contiguous().to(layer.weight.device), persistent=False)
    plain = layer.quant_method.apply

    def apply(layer: Any, x: Tensor, bias: Tensor | None = None) -> Tensor:
        output = plain(layer, x, bias)
        inner = torch.bmm(x.reshape(streams, -1, x.shape[-1])[first:], layer.genarm_down)
        rows = output.reshape(streams, -1, output.shape[-1])
        added = torch.baddbmm(rows[first:], inner, layer.genarm_up)
        return torch.cat([rows[:first], added]).reshape(output.shape)

    layer.quant_method.apply = apply


def _own_inputs(layer: Any, name: str, down: Tensor) -> Tensor:
    """This rank's columns of A [r, in]: a row-parallel layer has a part of the inputs, every other all of them."""
    inputs = layer.weight.shape[1]
    whole = layer.input_size
    if down.shape[1] != whole:
        raise UnsupportedAdapterError(
            f"LoRA on {name} reads {down.shape[1]} features, the model's layer {whole}: it was made for another model"
        )
    return down.narrow(1, layer.tp_rank * inputs, inputs) if isinstance(layer, RowParallelLinear) else down


def _own_outputs(layer: Any, name: str, up: Tensor, shard: Any) -> Tensor:
    """This rank's rows of B [out, r], where the layer's own weights would lie; other parts of it are zero."""
    holder = nn.Parameter(torch.zeros(layer.weight.shape[0], up.shape[1], dtype=up.dtype), requires_grad=False)
    if not isinstance(layer, ColumnParallelLinear):
        if up.shape[0] != holder.shape[0]:
            raise UnsupportedAdapterError(
                f"LoRA on {name} writes {up.shape[0]} features: it was made for another model"
            )
        return up
    holder.output_dim = 0  # type: ignore[attr-defined]
    try:
        layer.weight_loader(holder, up, *(() if shard is None else (shard,)))
    except (AssertionError, RuntimeError) as error:
        raise UnsupportedAdapterError(
            f"LoRA on {name} writes {up.shape[0]} features, which the model's layer does not have ({error}): it was "
            "made for another model"
        ) from error
    return holder.data
