"""Which models share a backbone, and which path runs each: the fused decoder where it can, transformers elsewhere."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from .backbone import Backbone
from .causal import CausalModel, inner_model
from .fused.attention import AttentionName
from .fused.families import altered_parts, lora_targets, why_not
from .fused.network import FusedBackbone
from .fused.streams import Layers, fingerprint, stream_layers
from .hf.session import HFBackbone


class Plan:
    """The backbones of M models, chosen again when one of them was altered: an adapter switched, merged or trained,
    hooks put on, its weights moved or cast."""

    def __init__(self, models: Sequence[CausalModel], fuse: bool = True, attention: AttentionName = "kernel") -> None:
        self._models = list(models)
        self._options = (fuse, attention)
        self._seen = self._fingerprints()
        self._backbones = build_backbones(self._models, *self._options)

    @property
    def backbones(self) -> list[Backbone]:
        seen = self._fingerprints()
        if seen != self._seen:
            self._seen, self._backbones = [], []  # the old ones' adapters need no rows any more
            self._backbones = build_backbones(self._models, *self._options)
            self._seen = seen
        return self._backbones

    def _fingerprints(self) -> list[tuple[Any, ...]]:
        return [_fingerprint(model) for model in self._models]


def _fingerprint(model: CausalModel) -> tuple[Any, ...]:
    inner = inner_model(model.module)
    kinds = {(parameter.dtype, parameter.device) for parameter in inner.parameters()}
    return kinds, [id(part) for part in inner.modules()], altered_parts(inner), fingerprint(model)


def build_backbones(
    models: Sequence[CausalModel], fuse: bool = True, attention: AttentionName = "kernel"
) -> list[Backbone]:
    """One FusedBackbone for all streams on one set of weights that it can run, an HFBackbone for each of the others."""
    shared: dict[int, list[tuple[int, Layers]]] = {}
    backbones: list[Backbone] = []
    for stream, model in enumerate(models):
        layers = _fusable(model) if fuse else None
        if layers is None:
            backbones.append(HFBackbone(model, stream))
        else:
            shared.setdefault(id(inner_model(model.module)), []).append((stream, layers))
    for entries in shared.values():
        streams, layers_of = zip(*entries, strict=True)
        backbones.append(FusedBackbone(models[streams[0]], streams, layers_of, attention))
    return sorted(backbones, key=lambda backbone: backbone.streams)


def _fusable(model: CausalModel) -> Layers | None:
    """The stream's LoRA where the fused decoder runs it, None where it does not."""
    inner = inner_model(model.module)
    if why_not(inner) is not None:
        return None
    layers = stream_layers(model)
    return layers if layers is not None and layers.keys() <= lora_targets(inner) else None
