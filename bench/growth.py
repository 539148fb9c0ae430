"""Wider models that compute the same function: how a model whose steps take as long as a large one's comes of a small
one that is trained in minutes.

Every unit of the residual stream and of the MLP and every query head becomes ``factor`` of them that hold the same, and
every product divides by as many, which is exact for a power of two; key and value heads stay, shared by more queries.
Weights are as many as a model of that shape has, and a step reads and multiplies every one of them; the tokens
it draws are the small one's. Source: Net2Net (Chen et al., ICLR 2016), for a Llama.
"""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from torch import Tensor
from transformers import LlamaConfig, LlamaForCausalLM

from genarm.models.adapters import LoraAdapter

# What a linear layer of a Llama reads and gives, by the end of its name.
ENDS = {
    "q_proj": ("hidden", "heads"),
    "k_proj": ("hidden", "keys"),
    "v_proj": ("hidden", "keys"),
    "o_proj": ("heads", "hidden"),
    "gate_proj": ("hidden", "mlp"),
    "up_proj": ("hidden", "mlp"),
    "down_proj": ("mlp", "hidden"),
}


def _spread(config: LlamaConfig, factor: int) -> dict[str, Callable[[Tensor, int], Tensor]]:
    """How units of each kind are copied along a dimension."""

    def tiled(values: Tensor, dim: int) -> Tensor:
        return torch.cat([values] * factor, dim)

    def by_head(values: Tensor, dim: int) -> Tensor:
        heads = values.unflatten(dim, (config.num_attention_heads, config.head_dim))
        return heads.repeat_interleave(factor, dim).flatten(dim, dim + 1)

    return {"hidden": tiled, "mlp": tiled, "heads": by_head, "keys": lambda values, dim: values}


def grown(model: Any, factor: int, dtype: torch.dtype) -> LlamaForCausalLM:
    """A Llama with tied embeddings, ``factor`` times as wide, of the same logits but for rounding."""
    config = deepcopy(model.config)
    config.hidden_size *= factor
    config.intermediate_size *= factor
    config.num_attention_heads *= factor
    wide: Any = LlamaForCausalLM(config).to(dtype).eval().requires_grad_(False)
    spread = _spread(model.config, factor)
    with torch.no_grad():
        for name, parameter in wide.named_parameters():
            parameter.copy_(_wider(name, model.get_parameter(name), spread, factor))
    wide.generation_config = deepcopy(model.generation_config)
    wide.set_attn_implementation("eager")
    return wide


def _wider(name: str, weight: Tensor, spread: dict[str, Callable[[Tensor, int], Tensor]], factor: int) -> Tensor:
    *_, layer, _ = name.split(".")
    if layer in ENDS:
        reads, gives = ENDS[layer]
        return spread[gives](spread[reads](weight, 1), 0) / factor
    if weight.ndim == 2:  # the embedding, which is the head too
        return spread["hidden"](weight, 1)
    # The head has ``factor`` times as many units to sum over, which the last norm makes up for.
    return spread["hidden"](weight, 0) / (factor if name == "model.norm.weight" else 1)


def grown_adapter(adapter: LoraAdapter, config: LlamaConfig, factor: int) -> LoraAdapter:
    """The adapter for the model of ``config`` once that is ``factor`` times as wide; its rank stays."""
    spread = _spread(config, factor)
    layers = {}
    for name, (down, up, bias) in adapter.layers.items():
        reads, gives = ENDS[name.rpartition(".")[2]]
        layers[name] = (spread[reads](down, 1) / factor, spread[gives](up, 0), bias)
    return LoraAdapter(adapter.path, None, layers)
