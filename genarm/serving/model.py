"""The guided model in vLLM: the base and its reward models as one model, whose logits are their combination.

    s = Σ_m w_m z_m        in float32, w per request

Every model of it reads the same tokens and keeps its own key-value cache. Hidden states come out side by side, so that
vLLM picks the rows it samples from all of them at once, and the heads run on those rows alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from itertools import groupby
from typing import Any

import torch
from torch import Tensor, nn
from vllm.compilation.backends import set_model_tag
from vllm.model_executor.model_loader.default_loader import DefaultModelLoader
from vllm.model_executor.models.utils import init_vllm_registered_model
from vllm.transformers_utils.config import get_config

from ..models.adapters import LoraAdapter, read_adapter
from ..models.files import adapter_folder, is_adapter
from .combine import combine
from .rows import PLACE
from .settings import KEY, ServedGuidance
from .streams import put_adapters, split_attention
from .tables import StepTable

MARK = "genarm/"  # before the names of weights of every model but the base: no checkpoint's own names begin so


class _Backbone(nn.Module):
    """One set of weights and the streams that run on it; ``places`` are their columns in the row of weights."""

    def __init__(
        self, model: nn.Module, hidden_size: int, places: list[int], adapters: list[LoraAdapter | None]
    ) -> None:
        super().__init__()
        self.model, self.places = model, places
        self.width = len(places) * hidden_size
        self._adapters = adapters

    def forward(self, input_ids: Tensor, positions: Tensor) -> Tensor:
        """[N] ids and positions -> the streams' hidden states side by side, [N, S·H]."""
        streams = len(self.places)
        if streams == 1:
            hidden: Tensor = self.model(input_ids, positions, None, None)
            return hidden
        hidden = self.model(input_ids.repeat(streams), positions.repeat(streams), None, None)
        return hidden.reshape(streams, len(input_ids), -1).transpose(0, 1).flatten(1)

    def logits(self, hidden: Tensor, used: list[bool]) -> dict[int, Tensor | None]:
        """The logits of the streams that any row gives a weight, by their column; None on ranks that gather none."""
        streams = hidden.reshape(len(hidden), len(self.places), -1).unbind(1)
        wanted = [(place, rows) for place, rows in zip(self.places, streams, strict=True) if used[place]]
        if not wanted:
            return {}
        logits: Any = self.model
        logits = logits.compute_logits(torch.cat([rows for _, rows in wanted]))
        parts = [None] * len(wanted) if logits is None else logits.chunk(len(wanted))
        return {place: part for (place, _), part in zip(wanted, parts, strict=True)}

    def load(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        model: Any = self.model
        loaded: set[str] = model.load_weights(weights)
        if any(adapter is not None for adapter in self._adapters):
            put_adapters(self.model, self._adapters)
            self._adapters = []
        return {f"model.{name}" for name in loaded}


class GenARMForCausalLM(nn.Module):
    """The base, its reward models, and Σ w z of their logits. What it is made of stands in the configuration."""

    def __init__(self, *, vllm_config: Any, prefix: str = "") -> None:
        super().__init__()
        config = vllm_config.model_config
        self.guidance = ServedGuidance.from_dict(getattr(config.hf_config, KEY))
        context = vllm_config.compilation_config.static_forward_context
        # Runner v1 has made its table by now; runner v2 makes a state, which sets one, as soon as the weights are read.
        self.table: StepTable | None = context.get(PLACE)
        self.vocab_size: int = config.get_vocab_size()
        self.secondary_weights: list[Any] = []
        groups: dict[str | None, tuple[list[int], list[LoraAdapter | None]]] = {None: ([0], [None])}
        for column, reward in enumerate(self.guidance.rewards, 1):
            adapted = is_adapter(reward.path)
            places, adapters = groups.setdefault(reward.base if adapted else reward.path, ([], []))
            places.append(column)
            adapters.append(read_adapter(adapter_folder(reward.path)) if adapted else None)
        self.backbones: list[str] = []
        for index, (path, (places, adapters)) in enumerate(groups.items()):
            name = f"model{index}"
            model, hidden_size = _make(vllm_config, path, f"{prefix}.{name}" if prefix else name)
            if len(places) > 1:
                split_attention(model, len(places), context)
            self.add_module(name, _Backbone(model, hidden_size, places, adapters))
            self.backbones.append(name)
            if path is not None:
                source = DefaultModelLoader.Source(path, revision=None, prefix=f"{MARK}{name}/")
                self.secondary_weights.append(source)

    @staticmethod
    def get_model_state_cls() -> type[Any]:
        """What runner v2 asks for."""
        from .state import GuidedState

        return GuidedState

    def embed_input_ids(self, input_ids: Tensor) -> Tensor:
        raise NotImplementedError("a guided model reads tokens: its models have an embedding each")

    def forward(
        self,
        input_ids: Tensor,
        positions: Tensor,
        intermediate_tensors: Any = None,
        inputs_embeds: Tensor | None = None,
        **_: Any,
    ) -> Tensor:
        """[N] -> all streams' hidden states side by side, [N, Σ H]."""
        return torch.cat([getattr(self, name)(input_ids, positions) for name in self.backbones], dim=-1)

    def compute_logits(self, hidden_states: Tensor) -> Tensor | None:
        """[B, Σ H] -> the combined scores [B, V] in float32, V the base's; -inf where a model with a weight has no such
        id. None on ranks that do not sample."""
        table = self.table
        if table is None:
            raise RuntimeError("guided decoding got no weights from vLLM: please report this with your vLLM version")
        weights = table.weights(len(hidden_states))
        logits: dict[int, Tensor | None] = {}
        begin = 0
        for name in self.backbones:
            backbone: _Backbone = getattr(self, name)
            end = begin + backbone.width
            logits |= backbone.logits(hidden_states[:, begin:end], table.used)
            begin = end
        present = {column: part for column, part in logits.items() if part is not None}
        if len(present) < len(logits):
            return None
        table.keep(present)
        scores, table.status = combine(present, weights, self.vocab_size)
        return scores

    def load_weights(self, weights: Iterable[tuple[str, Tensor]]) -> set[str]:
        """Every model's weights, the base's first, as the loader reads one checkpoint after the other."""
        loaded: set[str] = set()
        for name, group in groupby(weights, key=lambda item: _owner(item[0])):
            own = ((key.removeprefix(f"{MARK}{name}/"), tensor) for key, tensor in group)
            loaded |= {f"{name}.{key}" for key in getattr(self, name).load(own)}
        return loaded


def _owner(key: str) -> str:
    return key.split("/", 2)[1] if key.startswith(MARK) else "model0"


def _make(vllm_config: Any, path: str | None, prefix: str) -> tuple[nn.Module, int]:
    """The base (None) or another model, empty, with layers named by ``prefix``, and the width of its hidden states."""
    config = vllm_config.model_config
    own = get_config(path or config.model, config.trust_remote_code, revision=config.revision if path is None else None)
    architectures = own.architectures
    if path is None:  # with what the server's other hf_overrides say of it
        own = config.hf_config
    with set_model_tag(f"genarm_{prefix}") if path is not None else nullcontext():
        model = init_vllm_registered_model(vllm_config, prefix=prefix, hf_config=own, architectures=architectures)
    return model, own.get_text_config().hidden_size
