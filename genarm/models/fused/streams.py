"""The LoRA that one stream carries: that of PEFT layers inside its module, and the adapter put on top of them."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from peft.tuners.tuners_utils import BaseTunerLayer
from torch import nn

from ..causal import CausalModel, inner_model
from ..preference_adapters import PreferenceAdapter
from .linear import Pair

HEAD = "lm_head"


@dataclass(frozen=True, slots=True)
class StreamLora:
    """What linear layers add for one stream, by their names in the model.

    ``live``: some of it is PEFT's own parameters, which may be trained or written to at any time.
    """

    pairs: Mapping[str, Pair] = field(default_factory=dict)
    live: bool = False

    @property
    def head(self) -> Pair | None:
        """What the LM head adds."""
        return self.pairs.get(HEAD)

    @property
    def body(self) -> StreamLora:
        """All but the LM head."""
        return StreamLora({name: pair for name, pair in self.pairs.items() if name != HEAD}, self.live)

    def stands_for(self, other: StreamLora) -> bool:
        """Whether both are one adapter: the same live parameters, or the same numbers read from files."""
        if self.live != other.live or self.pairs.keys() != other.pairs.keys():
            return False
        alike = _is_same_memory if self.live else _is_same_content
        return all(alike(pair, other.pairs[name]) for name, pair in self.pairs.items())


def stream_lora(model: CausalModel, layers: Sequence[tuple[str, Any]] | None = None) -> StreamLora | None:
    """What fused layers have to add for this stream, None where that is more than A and B matrices. A stream that is
    conditioned on preferences has nothing of its own here, and does not go with other adapters or one on the head.

    ``layers``: the module's ``tuner_layers``, where they were looked up for several streams.
    """
    pairs: dict[str, list[Pair]] = {}
    for name, layer in tuner_layers(inner_model(model.module)) if layers is None else layers:
        found = _active(layer, off=model.without is not None)
        if found is None:
            return None
        if found:
            pairs[name] = found
    live = bool(pairs)
    if isinstance(model.adapter, PreferenceAdapter):  # its rows have theirs from PreferenceSlots
        return None if live or HEAD in model.adapter.layers else StreamLora()
    for name, (down, up, bias) in (model.adapter.layers if model.adapter else {}).items():
        if bias is not None:
            return None
        pairs.setdefault(name, []).append(Pair(down, up))
    return StreamLora({name: _joined(found) for name, found in pairs.items()}, live)


def tuner_layers(module: nn.Module) -> Iterator[tuple[str, Any]]:
    """PEFT's layers inside a module."""
    for name, layer in module.named_modules():
        if isinstance(layer, BaseTunerLayer):
            yield name, layer


def _active(layer: Any, off: bool) -> list[Pair] | None:
    """A and B of a PEFT layer's active adapters, [] where it has none, None where it is not plain LoRA."""
    if type(layer) is not LoraLinear or layer.merged:
        return None
    if off or layer.disable_adapters:
        return []
    found: list[Pair] = []
    for name in layer.active_adapters:
        if name not in layer.lora_A:
            continue
        down, up = layer.lora_A[name], layer.lora_B[name]
        if name in layer.lora_variant or type(down) is not nn.Linear or up.bias is not None:
            return None
        found.append(Pair(down.weight.detach(), up.weight.detach(), float(layer.scaling[name])))
    return found


def _joined(pairs: list[Pair]) -> Pair:
    """Several adapters on one layer are one of a higher rank."""
    if len(pairs) == 1:
        return pairs[0]
    dtype = pairs[0].down.dtype
    downs = [pair.down.to(dtype) for pair in pairs]
    ups = [(pair.up * pair.scale).to(dtype) for pair in pairs]
    return Pair(torch.cat(downs), torch.cat(ups, dim=1))


def _is_same_memory(one: Pair, other: Pair) -> bool:
    return one.scale == other.scale and all(
        a.data_ptr() == b.data_ptr() and a.shape == b.shape and a.dtype == b.dtype
        for a, b in ((one.down, other.down), (one.up, other.up))
    )


def _is_same_content(one: Pair, other: Pair) -> bool:
    return one.scale == other.scale and all(
        a is b or (a.shape == b.shape and a.dtype == b.dtype and a.device == b.device and torch.equal(a, b))
        for a, b in ((one.down, other.down), (one.up, other.up))
    )
