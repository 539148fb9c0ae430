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
from torch.nn.modules import module as every_module
from transformers.activations import ACT2FN

from genarm_kernels.layer.attention_arguments import MAX_HEAD_DIM

from .names import FAMILIES

# Scalings whose frequencies do not depend on the length of the text.
ROTARY_TYPES = {"default", "linear", "llama3", "yarn"}
DTYPES = {torch.bfloat16, torch.float16, torch.float32}
ACTIVATIONS = {type(ACT2FN["silu"]), nn.SiLU}
NORMS = ("input_layernorm", "post_attention_layernorm", "q_norm", "k_norm")
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

    @property
    def modules(self) -> list[nn.Module]:
        norms = (self.attention_norm, self.mlp_norm, self.q_norm, self.k_norm)
        return [*self.linears.values(), *(norm for norm in norms if norm is not None)]


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

    @property
    def modules(self) -> list[nn.Module]:
        return [*(part for layer in self.layers for part in layer.modules), self.embedding, self.norm, self.head]


def why_not(model: Any) -> str | None:
    """Why the fused decoder cannot run a transformers model, None where it can."""
    kind = type(model)
    if kind.__name__ not in FAMILIES or not kind.__module__.startswith("transformers.models."):
        return f"{kind.__name__} is not one of {', '.join(sorted(FAMILIES))}"
    if every_module._global_forward_hooks or every_module._global_forward_pre_hooks:
        return "every module has hooks"
    for name, part in model.named_modules():
        if is_altered(part):
            return f"{name or 'the model'} has hooks or a forward of its own"
    return _strange_part(model) or _strange_rotary(model) or _strange_weight(model)


def is_altered(part: nn.Module) -> bool:
    """Whether a part's forward pass is not its class's: it has hooks, or a forward of its own."""
    return bool(part._forward_hooks or part._forward_pre_hooks or "forward" in vars(part))


def _strange_part(model: Any) -> str | None:
    """A part that is not the family's own: PEFT's LoRA may stand around a linear layer, nothing else may."""
    own: dict[str, Any] = {"model": model.model, "norm": model.model.norm, "rotary": model.model.rotary_emb}
    for index, layer in enumerate(model.model.layers):
        attention, mlp = getattr(layer, "self_attn", None), getattr(layer, "mlp", None)
        own[f"layer {index}"], own[f"attention of layer {index}"], own[f"MLP of layer {index}"] = layer, attention, mlp
        for name in NORMS:
            part = getattr(layer, name, getattr(attention, name, None))
            if part is not None:
                own[f"{name} of layer {index}"] = part
    for name, part in own.items():
        if type(part).__module__ != type(model).__module__:
            return f"its {name} is a {type(part).__name__}"
    for index, layer in enumerate(model.model.layers):
        for name in LINEARS:
            part = getattr(layer.self_attn, name, getattr(layer.mlp, name, None))
            if plain_linear(part) is None:
                return f"{name} of layer {index} is a {type(part).__name__}"
        if type(layer.mlp.act_fn) not in ACTIVATIONS:
            return f"its activation is {type(layer.mlp.act_fn).__name__}, not SiLU"
    if plain_linear(model.lm_head) is None:
        return f"its head is a {type(model.lm_head).__name__}"
    if type(model.model.embed_tokens) is not nn.Embedding:
        return f"its embedding is a {type(model.model.embed_tokens).__name__}"
    return None


def _strange_rotary(model: Any) -> str | None:
    rotary = model.model.rotary_emb
    if rotary.rope_type not in ROTARY_TYPES:
        return f"its rotary scaling {rotary.rope_type!r} depends on the length of the text"
    if 2 * len(rotary.inv_freq) != model.model.layers[0].self_attn.head_dim:
        return "it rotates only a part of each head"
    return None


def _strange_weight(model: Any) -> str | None:
    other = next((one for one in model.parameters() if type(one) is not nn.Parameter), None)
    if other is not None:  # quantised, say, or spread over devices
        return f"some of its weights are {type(other).__name__}"
    parts = read_parts(model)
    own = [parameter for part in parts.modules for parameter in part.parameters(recurse=False)]
    if len({(parameter.device, parameter.dtype) for parameter in own}) != 1:
        return "its weights are not all of one dtype on one device"
    if own[0].dtype not in DTYPES:
        return f"its weights are {own[0].dtype}"
    linears = [linear for layer in parts.layers for linear in layer.linears.values()]
    if len({linear.weight.data_ptr() for linear in linears}) < len(linears):
        return "some of its layers share their weights"
    rows = parts.heads * parts.head_dim, parts.kv_heads * parts.head_dim
    if any(
        (layer.linears["q_proj"].out_features, layer.linears["k_proj"].out_features) != rows for layer in parts.layers
    ):
        return "its layers differ in their number of heads"
    if parts.head_dim > MAX_HEAD_DIM:  # of decode_attention
        return f"its heads have {parts.head_dim} columns, more than {MAX_HEAD_DIM}"
    return None


def plain_linear(module: Any) -> nn.Linear | None:
    """The linear layer itself, or the one inside PEFT's LoRA; None where it is anything else."""
    inner = module.base_layer if type(module) is LoraLinear else module
    return inner if type(inner) is nn.Linear else None


def lora_targets(model: Any) -> set[str]:
    """The names of the linear layers that may carry LoRA."""
    return {"lm_head", *(path for layer in read_parts(model).layers for path in layer.paths.values())}


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
