"""Which architectures the fused decoder runs, and where their parts are in a transformers module.

Llama 2 and 3, Mistral, Qwen2 and Qwen3 are one network: pre-norm, rotary positions, grouped-query attention, SwiGLU.
They differ in biases, in a norm on queries and keys, in windows and in how rotary frequencies are scaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from peft.tuners.lora.layer import Linear as LoraLinear
from torch import Tensor, nn

FAMILIES = {"LlamaForCausalLM", "MistralForCausalLM", "Qwen2ForCausalLM", "Qwen3ForCausalLM"}
# Scalings whose frequencies do not depend on the length of the text.
ROTARY_TYPES = {"default", "linear", "llama3", "yarn"}
DTYPES = {torch.bfloat16, torch.float16, torch.float32}
LINEARS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclass(frozen=True, slots=True)
class LayerParts:
    """One decoder layer: linears by name, norm weights, and the attention's window (0 is all positions)."""

    linears: dict[str, nn.Linear]
    paths: dict[str, str]  # linear -> its name in the model
    attention_norm: Any
    mlp_norm: Any
    q_norm: Any
    k_norm: Any
    window: int


@dataclass(frozen=True, slots=True)
class Parts:
    """A whole model."""

    layers: list[LayerParts]
    embedding: Any
    norm: Any
    head: nn.Linear
    heads: int
    kv_heads: int
    head_dim: int
    eps: float
    scale: float  # of the attention's scores
    rotary: Any


def why_not(model: Any) -> str | None:
    """Why the fused decoder cannot run a transformers model, None where it can."""
    kind = type(model)
    if kind.__name__ not in FAMILIES or not kind.__module__.startswith("transformers.models."):
        return f"{kind.__name__} is not one of {', '.join(sorted(FAMILIES))}"
    config, rotary = model.config, model.model.rotary_emb
    if config.hidden_act != "silu":
        return f"its activation is {config.hidden_act}, not silu"
    if rotary.rope_type not in ROTARY_TYPES:
        return f"its rotary scaling {rotary.rope_type!r} depends on the length of the text"
    head_dim = model.model.layers[0].self_attn.head_dim
    if 2 * len(rotary.inv_freq) != head_dim:
        return "it rotates only a part of each head"
    tensors = list(model.parameters())
    if len({(tensor.device, tensor.dtype) for tensor in tensors if tensor.dim() == 2}) != 1:
        return "its weights are not all of one dtype on one device"
    if tensors[0].dtype not in DTYPES:
        return f"its weights are {tensors[0].dtype}"
    return _strange_part(model)


def altered_parts(model: nn.Module) -> list[str]:
    """The names of the parts whose forward pass is not their class's: with hooks, or a forward of their own."""
    return [
        name or "the model"
        for name, part in model.named_modules()
        if part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part)
    ]


def _strange_part(model: Any) -> str | None:
    altered = altered_parts(model)
    if altered:
        return f"{altered[0]} has hooks or a forward of its own"
    for index, layer in enumerate(model.model.layers):
        for name in LINEARS:
            owner = layer.self_attn if name in ("q_proj", "k_proj", "v_proj", "o_proj") else layer.mlp
            if plain_linear(getattr(owner, name)) is None:
                return f"{name} of layer {index} is a {type(getattr(owner, name)).__name__}"
    if plain_linear(model.lm_head) is None:
        return f"its head is a {type(model.lm_head).__name__}"
    if type(model.model.embed_tokens) is not nn.Embedding:
        return f"its embedding is a {type(model.model.embed_tokens).__name__}"
    return None


def plain_linear(module: Any) -> nn.Linear | None:
    """The linear layer itself, or the one inside PEFT's LoRA; None where it is anything else."""
    inner = module.base_layer if type(module) is LoraLinear else module
    return inner if type(inner) is nn.Linear else None


def read_parts(model: Any) -> Parts:
    """A model that ``why_not`` has nothing against."""
    layers = [_layer(layer, f"model.layers.{index}") for index, layer in enumerate(model.model.layers)]
    attention = model.model.layers[0].self_attn
    head = plain_linear(model.lm_head)
    assert head is not None
    return Parts(
        layers=layers,
        embedding=model.model.embed_tokens,
        norm=model.model.norm,
        head=head,
        heads=model.config.num_attention_heads,
        kv_heads=model.config.num_key_value_heads,
        head_dim=attention.head_dim,
        eps=model.config.rms_norm_eps,
        scale=attention.scaling,
        rotary=model.model.rotary_emb,
    )


def _layer(layer: Any, path: str) -> LayerParts:
    attention = layer.self_attn
    owners = {name: "self_attn" if hasattr(attention, name) else "mlp" for name in LINEARS}
    linears = {name: plain_linear(getattr(getattr(layer, owner), name)) for name, owner in owners.items()}
    window = getattr(attention, "sliding_window", None)
    if attention.config.model_type == "mistral":  # whose attention reads the configuration
        window = attention.config.sliding_window
    return LayerParts(
        linears={name: linear for name, linear in linears.items() if linear is not None},
        paths={name: f"{path}.{owner}.{name}" for name, owner in owners.items()},
        attention_norm=layer.input_layernorm,
        mlp_norm=layer.post_attention_layernorm,
        q_norm=getattr(attention, "q_norm", None),
        k_norm=getattr(attention, "k_norm", None),
        window=int(window or 0),
    )


def rotary_tables(rotary: Any, length: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, [length, D/2] float32 each, of every position."""
    positions = torch.arange(length, dtype=torch.float32, device=device)
    angles = positions[:, None] * rotary.inv_freq.to(device, torch.float32)
    return angles.cos() * rotary.attention_scaling, angles.sin() * rotary.attention_scaling
