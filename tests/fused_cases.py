"""Models of the fused decoder's families in every variety, and the check that a decoder's streams are plain models."""

from __future__ import annotations

import copy
from typing import Any

import torch
from families import LLAMA_LINEARS, VOCAB, random_prompts
from peft import get_peft_model
from sessions import decode
from torch import Tensor
from transformers import (
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from genarm import GuidedDecoder

CLASSES: dict[str, tuple[Any, Any]] = {
    "llama": (LlamaConfig, LlamaForCausalLM),
    "mistral": (MistralConfig, MistralForCausalLM),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM),
}
COMMON: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 512, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0,
}  # fmt: skip
LLAMA3 = {"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0}
WINDOWS = {"use_sliding_window": True, "sliding_window": 5, "max_window_layers": 1, "num_hidden_layers": 3}
# name -> family and what its configuration says beside COMMON
VARIETIES: dict[str, tuple[str, dict[str, Any]]] = {
    "llama": ("llama", {}),
    "llama of one key head": ("llama", {"num_key_value_heads": 1}),
    "llama of ungrouped heads": ("llama", {"num_key_value_heads": 4}),
    "llama with biases": ("llama", {"attention_bias": True, "mlp_bias": True}),
    "llama with a tied head": ("llama", {"tie_word_embeddings": True}),
    "llama with wide heads": ("llama", {"head_dim": 16}),
    "llama 3's positions": (
        "llama",
        {"rope_parameters": LLAMA3 | {"rope_theta": 1e4, "original_max_position_embeddings": 16}},
    ),
    "linear positions": ("llama", {"rope_parameters": {"rope_type": "linear", "factor": 4.0, "rope_theta": 1e4}}),
    "yarn positions": (
        "llama",
        {
            "rope_parameters": {
                "rope_type": "yarn",
                "factor": 4.0,
                "rope_theta": 1e4,
                "original_max_position_embeddings": 16,
            }
        },
    ),
    "mistral": ("mistral", {"sliding_window": 6}),
    "mistral without a window": ("mistral", {"sliding_window": None}),
    "qwen2": ("qwen2", {}),
    "qwen2 with some windows": ("qwen2", WINDOWS),
    "qwen3": ("qwen3", {"head_dim": 16}),
    "qwen3 with biases and a tied head": ("qwen3", {"attention_bias": True, "tie_word_embeddings": True}),
    "qwen3 with some windows": ("qwen3", WINDOWS),
}


def build(variety: str, seed: int = 1, **settings: Any) -> Any:
    """A random float32 model in eval mode, its weights scaled up so that every part of it matters."""
    family, own = VARIETIES[variety]
    config, model_class = CLASSES[family]
    torch.manual_seed(seed)
    model = model_class(config(**{**COMMON, **own, **settings}))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
            elif "norm" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.1)
            else:
                parameter.normal_(0, 0.1)
    return model.eval()


def continued(prompts: list[Tensor], steps: int, seed: int = 3) -> list[Tensor]:
    """Each prompt with so many random tokens behind it."""
    tails = random_prompts([steps] * len(prompts), seed=seed)
    return [torch.cat([prompt, tail]) for prompt, tail in zip(prompts, tails, strict=True)]


def plain_logits(plain: Any, prompts: list[Tensor], steps: int) -> Tensor:
    """[steps + 1, B, V] after each prompt and each token behind it, in one plain forward pass a row."""
    with torch.no_grad():
        rows = [
            plain(input_ids=row[None].to(plain.device)).logits[0, -steps - 1 :] for row in continued(prompts, steps)
        ]
    return torch.stack(rows, 1)


def stream_logits(decoder: GuidedDecoder, prompts: list[list[Tensor]], steps: int, spare: int = 3) -> list[Tensor]:
    """[M] of [steps + 1, B, V], one session a backbone, fed with the same tokens."""
    batch = len(prompts[0])
    prompts = [[prompt.to(decoder.device) for prompt in own] for own in prompts]
    tails = torch.stack(random_prompts([steps] * batch, seed=3)).to(decoder.device)
    length = max(len(row) for rows in prompts for row in rows) + steps + spare
    found: dict[int, Tensor] = {}
    for backbone in decoder.engine.backbones:
        session = backbone.session(batch, length)
        outputs = [session.prefill([prompts[stream] for stream in backbone.streams])]
        outputs += [decode(session, tails[:, step]) for step in range(steps)]
        for place, stream in enumerate(backbone.streams):
            found[stream] = torch.stack([output[place] for output in outputs])
    return [found[stream] for stream in range(len(decoder.models))]


def kinds(decoder: GuidedDecoder) -> list[str]:
    return [backbone.kind for backbone in decoder.engine.backbones]


def assert_streams_are(
    decoder: GuidedDecoder,
    plain: list[Any],
    prompts: list[list[Tensor]] | None = None,
    steps: int = 5,
    tolerance: float = 1e-4,
) -> None:
    """Every stream is its plain model, in ragged rows, from the prompt on."""
    prompts = prompts or [random_prompts([5, 13, 1], seed=1)] * len(plain)
    found = stream_logits(decoder, prompts, steps)
    for stream, (model, own) in enumerate(zip(plain, prompts, strict=True)):
        expected = plain_logits(model, own, steps)
        error = float((found[stream] - expected.float()).abs().max())
        assert error < tolerance, f"stream {stream}: logits up to {float(expected.abs().max()):.1f} are {error:.1e} off"


def untouched(model: Any) -> Any:
    """A copy whose weights are its own."""
    return copy.deepcopy(model)


LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": LLAMA_LINEARS, "task_type": "CAUSAL_LM"}


def peft_of(base: Any, config: Any) -> Any:
    torch.manual_seed(5)
    wrapped = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "ia3" in name or "magnitude" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return wrapped.eval()
