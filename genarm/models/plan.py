"""Which models share a backbone, and which path runs each: the fused decoder where it can, transformers elsewhere.

What a user may do to a model between two calls is noticed here, once per call: its parts, hooks, dtypes and devices,
and which of PEFT's adapters are active. What those adapters hold, and where weights lie, the fused decoder reads anew
for every call. What neither can see (`GuidedDecoder.refresh` says what) is read anew on request.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from threading import RLock
from typing import Any

from torch import nn
from torch.nn.modules import module as every_module

from .backbone import Backbone
from .causal import CausalModel, inner_model
from .fused.attention import AttentionName
from .fused.backbone import FusedBackbone
from .fused.families import is_altered, lora_targets, why_not
from .fused.streams import StreamLora, stream_lora, tuner_layers
from .hf.session import HFBackbone
from .turns import alone_with


class Plan:
    """The backbones of M models, chosen again when one of them was altered: an adapter switched or merged, hooks put
    on, its weights moved or cast. ``first``: the first one's stream."""

    def __init__(
        self, models: Sequence[CausalModel], fuse: bool = True, attention: AttentionName = "kernel", first: int = 0
    ) -> None:
        self._models, self._first = list(models), first
        self._fuse, self._attention = fuse, attention
        self._seen: list[Any] = []
        self._backbones: list[Backbone] = []
        self._lock = RLock()
        self._notice()

    @property
    def backbones(self) -> list[Backbone]:
        return self._notice()

    def _notice(self) -> list[Backbone]:
        modules = {id(inner): inner for inner in (inner_model(model.module) for model in self._models)}
        with alone_with(modules.values()), self._lock:
            seen = [list(_appearance(module)) for module in modules.values()]
            if seen != self._seen:
                self._seen, self._backbones = [], []  # the old ones' adapters need no rows any more
                self._backbones = self._build()
                self._seen = seen
            return self._backbones

    def refresh(self) -> None:
        """Read everything anew at the next call: weights may have changed in ways that do not show."""
        with self._lock:
            for backbone in self._backbones:
                if isinstance(backbone, FusedBackbone):
                    backbone.weights.invalidate()
            self._seen, self._backbones = [], []

    def _build(self) -> list[Backbone]:
        """One FusedBackbone for all streams on one set of weights that it can run, an HFBackbone for each other."""
        shared: dict[int, list[tuple[CausalModel, int, StreamLora]]] = {}
        backbones: list[Backbone] = []
        for stream, model in enumerate(self._models, self._first):
            lora = _fusable(model) if self._fuse else None
            if lora is None:
                backbones.append(HFBackbone(model, stream))
            else:
                shared.setdefault(id(inner_model(model.module)), []).append((model, stream, lora))
        for entries in shared.values():
            models, streams, loras = zip(*entries, strict=True)
            backbones.append(FusedBackbone(models, streams, loras, self._attention))
        return sorted(backbones, key=lambda backbone: backbone.streams)


def _appearance(module: nn.Module) -> Iterator[Any]:
    """What differs when another path may have to run a module, or other adapters."""
    yield bool(every_module._global_forward_hooks or every_module._global_forward_pre_hooks)
    for part in module.modules():
        yield id(part), is_altered(part)
    yield {(parameter.dtype, parameter.device) for parameter in module.parameters()}
    for name, layer in tuner_layers(module):
        yield name, tuple(layer.active_adapters), tuple(layer.merged_adapters), layer.disable_adapters
        yield tuple(getattr(layer, "scaling", {}).items())
        yield [(key, one.shape) for key, one in layer.named_parameters() if not key.startswith("base_layer.")]


def _fusable(model: CausalModel) -> StreamLora | None:
    """The stream's LoRA where the fused decoder runs it, None where it does not."""
    inner = inner_model(model.module)
    if why_not(inner) is not None:
        return None
    lora = stream_lora(model)
    if lora is None:
        return None
    names = {*lora.pairs, *(model.adapter.layers if model.adapter is not None else ())}
    return lora if names <= lora_targets(inner) else None
