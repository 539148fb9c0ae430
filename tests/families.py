"""Tiny random models of several families, adapters on them, and the plain loop that decoding is held against."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from torch import Tensor
from transformers import (
    Gemma2Config,
    Gemma2ForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    LlamaConfig,
    LlamaForCausalLM,
    MistralConfig,
    MistralForCausalLM,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

VOCAB = 97
WORDS = [f"w{index}" for index in range(VOCAB)]
FAMILIES = ("llama", "qwen3", "gpt2", "gemma3", "mistral", "qwen2", "gemma2")
LLAMA_LINEARS = ["q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"]
LINEARS = dict.fromkeys(FAMILIES, LLAMA_LINEARS) | {"gpt2": ["c_attn", "c_proj", "c_fc"]}


# family -> its configuration, its model and what sets it apart: windows shorter than the prompts, so that they matter,
# caps low enough to matter (eager, because transformers' fused attention leaves them out). Qwen2's q, k, v have biases.
GEMMA2 = {"attn_logit_softcapping": 2.0, "final_logit_softcapping": 20.0, "attn_implementation": "eager"}
SHAPED: dict[str, tuple[Any, Any, dict[str, Any]]] = {
    "llama": (LlamaConfig, LlamaForCausalLM, {}),
    "qwen3": (Qwen3Config, Qwen3ForCausalLM, {}),
    "qwen2": (Qwen2Config, Qwen2ForCausalLM, {}),
    "mistral": (MistralConfig, MistralForCausalLM, {"sliding_window": 6}),
    "gemma3": (Gemma3TextConfig, Gemma3ForCausalLM, {"sliding_window": 8}),
    "gemma2": (Gemma2Config, Gemma2ForCausalLM, {"sliding_window": 8, **GEMMA2}),
}


def make_model(
    family: str, seed: int = 0, hidden: int = 32, layers: int = 2, vocab: int = VOCAB, tie: bool = False
) -> Any:
    """A random float32 model in eval mode. Weights are scaled up so that its distributions are far from uniform."""
    torch.manual_seed(seed)
    common = {"vocab_size": vocab, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "tie_word_embeddings": tie}
    if family == "gpt2":
        model: Any = GPT2LMHeadModel(GPT2Config(n_embd=hidden, n_layer=layers, n_head=4, n_positions=128, **common))
    else:
        config, model_class, own = SHAPED[family]
        if family.startswith("gemma"):
            own = {**own, "layer_types": ["sliding_attention", "full_attention"] * (layers // 2)}
        shape = {
            "hidden_size": hidden,
            "intermediate_size": hidden * 2,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "head_dim": hidden // 4,
            "max_position_embeddings": 512,
        }
        model = model_class(config(**shape, **own, **common))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
            elif "norm" not in name and "ln" not in name:
                parameter.normal_(0, 0.1)
    return model.eval()


def save_adapter(base: Any, family: str, folder: Path, seed: int, **settings: Any) -> Path:
    """A random LoRA adapter for ``base``, saved by peft. ``base`` itself is not touched."""
    torch.manual_seed(seed)
    options: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": LINEARS[family], "task_type": "CAUSAL_LM"}
    wrapped = get_peft_model(copy.deepcopy(base), LoraConfig(**{**options, **settings}))
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    wrapped.save_pretrained(str(folder))
    return folder


def with_adapter(base: Any, folder: Path) -> Any:
    """What peft makes of the adapter, on a copy of ``base``."""
    return PeftModel.from_pretrained(copy.deepcopy(base), str(folder)).eval()


def word_tokenizer(words: list[str] = WORDS, **special: str) -> Any:
    """A tokenizer of words between spaces, numbered as they stand; the first is for what is none of them."""
    model = Tokenizer(WordLevel({word: index for index, word in enumerate(words)}, unk_token=words[0]))
    model.pre_tokenizer = WhitespaceSplit()
    return PreTrainedTokenizerFast(tokenizer_object=model, **special)


def random_prompts(lengths: list[int], seed: int = 0, vocab: int = VOCAB) -> list[Tensor]:
    generator = torch.Generator().manual_seed(seed)
    return [torch.randint(3, vocab, (length,), generator=generator) for length in lengths]


def guided_log_probs(models: list[Any], weights: list[float], ids: Tensor, vocab: int = VOCAB) -> Tensor:
    """[V] float64 Σ w_m log p_m(next | ids), each model run alone on the whole sequence, without a cache."""
    total = torch.zeros(vocab, dtype=torch.float64)
    for model, weight in zip(models, weights, strict=True):
        with torch.no_grad():
            logits = model(input_ids=ids[None]).logits[0, -1, :vocab]
        total += weight * torch.log_softmax(logits.double(), dim=-1)
    return total


def plain_greedy(
    models: list[Any], weights: list[float], prompt: Tensor, steps: int, eos: int | None = 2, vocab: int = VOCAB
) -> list[int]:
    """Greedy tokens of the plain loop, up to the first near tie (a gap under 1e-4), after which float32 may differ."""
    ids, tokens = prompt, []
    for _ in range(steps):
        scores = guided_log_probs(models, weights, ids, vocab)
        top = scores.topk(2).values
        if float(top[0] - top[1]) < 1e-4:
            break
        tokens.append(int(scores.argmax()))
        ids = torch.cat([ids, torch.tensor(tokens[-1:])])
        if tokens[-1] == eos:
            break
    return tokens


def assert_streams_are(decoder: Any, plain: list[Any], tolerance: float = 1e-5) -> None:
    """What each stream says of tokens forced behind ragged prompts, three in a row, is what its plain model says."""
    prompts, tokens = random_prompts([6, 11, 1, 8], seed=1), random_prompts([4], seed=2)[0]
    forced = torch.full((4, VOCAB), -torch.inf).scatter(1, tokens[:, None], 0.0)
    out = decoder.generate(prompts, logit_bias=forced, max_new_tokens=3, eos_token_id=[], return_logprobs=True)
    assert out.model_logprobs is not None and out.model_logprobs.shape == (4, 3, len(plain))
    for stream, model in enumerate(plain):
        for row, (prompt, token) in enumerate(zip(prompts, tokens, strict=True)):
            with torch.no_grad():
                logits = model(input_ids=torch.cat([prompt, token.expand(3)])[None]).logits[0, -4:-1, :VOCAB]
            expected = logits.float().log_softmax(-1)[:, token]
            torch.testing.assert_close(out.model_logprobs[row, :, stream], expected, atol=tolerance, rtol=tolerance)


def left_padded(prompts: list[Tensor], pad: int = 0) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.stack([torch.cat([torch.full((width - len(p),), pad), p]) for p in prompts])
    mask = torch.stack([torch.arange(width) >= width - len(p) for p in prompts]).long()
    return ids, mask


def right_padded(prompts: list[Tensor], pad: int = 0) -> tuple[Tensor, Tensor]:
    width = max(map(len, prompts))
    ids = torch.stack([torch.cat([p, torch.full((width - len(p),), pad)]) for p in prompts])
    mask = torch.stack([torch.arange(width) < len(p) for p in prompts]).long()
    return ids, mask
