"""The LoRA that one stream carries: that of PEFT layers inside its module, and the adapter put on top of them."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import Tensor, nn

from ..causal import CausalModel, inner_model

# name of a linear layer -> A [r, in] and B [out, r] with the scaling folded in
Layers = dict[str, tuple[Tensor, Tensor]]


def stream_layers(model: CausalModel) -> Layers | None:
    """What a fused layer has to add for this stream, {} for nothing, None where that is more than A and B matrices."""
    pairs: dict[str, list[tuple[Tensor, Tensor]]] = {}
    for name, layer in _tuner_layers(model):
        found = _active(layer, off=model.without is not None)
        if found is None:
            return None
        if found:
            pairs[name] = found
    for name, (down, up, bias) in (model.adapter.layers if model.adapter else {}).items():
        if bias is not None:
            return None
        pairs.setdefault(name, []).append((down, up))
    return {name: _joined(found) for name, found in pairs.items()}


def fingerprint(model: CausalModel) -> tuple[Any, ...]:
    """Something that differs whenever ``stream_layers`` would: another active adapter, scaling or merge, a training
    step."""
    return tuple(
        (
            name,
            tuple(layer.active_adapters),
            tuple(layer.merged_adapters),
            layer.disable_adapters,
            tuple(getattr(layer, "scaling", {}).items()),
            *_versions(layer),
        )
        for name, layer in _tuner_layers(model)
    )


def _tuner_layers(model: CausalModel) -> Iterator[tuple[str, Any]]:
    """PEFT's layers inside the stream's module."""
    for name, layer in inner_model(model.module).named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield name, layer


def _versions(layer: Any) -> Iterator[tuple[int, int]]:
    for name, parameter in layer.named_parameters():
        if not name.startswith("base_layer."):
            yield parameter.data_ptr(), parameter._version


def _active(layer: Any, off: bool) -> list[tuple[Tensor, Tensor]] | None:
    """A and B of a PEFT layer's active adapters, [] where it has none, None where it is not plain LoRA."""
    if type(layer) is not LoraLinear or layer.merged:
        return None
    if off or layer.disable_adapters:
        return []
    found: list[tuple[Tensor, Tensor]] = []
    for name in layer.active_adapters:
        if name not in layer.lora_A:
            continue
        down, up = layer.lora_A[name], layer.lora_B[name]
        if name in layer.lora_variant or type(down) is not nn.Linear or up.bias is not None:
            return None
        found.append((down.weight.detach(), up.weight.detach() * layer.scaling[name]))
    return found


def _joined(pairs: list[tuple[Tensor, Tensor]]) -> tuple[Tensor, Tensor]:
    """Several adapters on one layer are one of a higher rank."""
    if len(pairs) == 1:
        return pairs[0]
    downs, ups = zip(*pairs, strict=True)
    dtype = downs[0].dtype
    return torch.cat([down.to(dtype) for down in downs]), torch.cat([up.to(dtype) for up in ups], dim=1)
