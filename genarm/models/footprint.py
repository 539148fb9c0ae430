"""What a forward pass holds beside weights, keys, values and logits: bytes by the shapes of a network."""

from __future__ import annotations

from typing import Any


def fused_pass_bytes(tokens: int, hidden: int, queries: int, gate_up: int, intermediate: int, itemsize: int) -> int:
    """Of the fused network where it is widest: at the MLP's activation.

    There live, per token, the residual, its norm and the attention's product (3 · hidden), the rotated queries
    (``queries`` = H · D), the gate's and up's product (``gate_up``: 2 · intermediate, and the adapters' shrinks) and
    what the activation makes of it (``intermediate``). For an 8B Llama in bfloat16 and 8,192 tokens that is
    8,192 · (3 · 4,096 + 4,096 + 28,672 + 14,336) · 2 bytes = 928 MiB, of which the MLP's own two take 672 MiB.
    """
    return tokens * (3 * hidden + queries + gate_up + intermediate) * itemsize


def module_pass_bytes(tokens: int, config: Any, itemsize: int) -> int:
    """Of a transformers module, about: the residual and what norms, casts and attention make of it (4 · hidden and the
    queries), and three times the MLP's width (the gate after its activation, up, and their product)."""
    heads = config.num_attention_heads
    queries = heads * (getattr(config, "head_dim", None) or config.hidden_size // heads)
    width = 4 * config.hidden_size + queries + 3 * _intermediate(config)
    return int(tokens * width * itemsize)


def mask_bytes(batch: int, tokens: int, itemsize: int) -> int:
    """Of a padded batch's mask, [B, 1, T, T] in the model's dtype: its attention asks for a whole one."""
    return batch * tokens * tokens * itemsize


def _intermediate(config: Any) -> int:
    """Of one token's MLP: the widest layer's, or that of all experts that a token goes through."""
    named = (getattr(config, name, None) for name in ("intermediate_size", "ffn_hidden_size", "ffn_dim", "n_inner"))
    width = next((value for value in named if value), 4 * config.hidden_size)
    experts = getattr(config, "num_experts_per_tok", None) or 0
    expert = getattr(config, "moe_intermediate_size", None) or (width if experts else 0)
    return int(max(max(width) if isinstance(width, list | tuple) else width, experts * expert))
