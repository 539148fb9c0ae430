"""What guidance costs inside vLLM: guided against plain decoding of one batch, models of equal size, in turn.

Run in the environment of `make test-serving`:

    .venv-serving-0.32.0/bin/python -m bench.serving_overhead --out serving.json
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from genarm.serving import versions
from genarm.serving.settings import ServedGuidance, ServedReward, hf_overrides

SIZES = {"hidden_size": 768, "intermediate_size": 2048, "num_hidden_layers": 6, "vocab_size": 16000}


def make_models(folder: Path) -> tuple[str, str, str]:
    """Random weights: a base, a full model of its size, a LoRA adapter of rank 8 on the base's linear layers."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(**SIZES, num_attention_heads=12, num_key_value_heads=4, max_position_embeddings=1024)
    paths = [str(folder / name) for name in ("base", "full", "lora")]
    for seed, path in enumerate(paths[:2]):
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config)
        model.save_pretrained(path)
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear", task_type="CAUSAL_LM"))
    adapted.save_pretrained(paths[2])
    return paths[0], paths[1], paths[2]


def start(base: str, reward: str | None) -> Any:
    from vllm import LLM

    told = None if reward is None else hf_overrides(ServedGuidance((ServedReward("reward", reward),)))
    return LLM(
        base,
        dtype="float32",
        enforce_eager=True,
        skip_tokenizer_init=True,
        max_model_len=512,
        hf_overrides=told,
        seed=0,
    )


def seconds(llm: Any, batch: int, context: int, tokens: int) -> float:
    """The time of one batch of greedy requests, all of the same length, whose prompts no cache knows."""
    from vllm import SamplingParams, TokensPrompt

    params = SamplingParams(temperature=0.0, max_tokens=tokens, ignore_eos=True, detokenize=False)
    prompts = [TokensPrompt(prompt_token_ids=torch.randint(10, 16000, (context,)).tolist()) for _ in range(batch)]
    begin = time.perf_counter()
    llm.generate(prompts, params, use_tqdm=False)
    return time.perf_counter() - begin


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=16)
    parser.add_argument("--context", type=int, default=32)
    parser.add_argument("--tokens", type=int, default=32)
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base, full, lora = make_models(Path(folder))
        engines = {name: start(base, path) for name, path in (("plain", None), ("full", full), ("lora", lora))}
        took: dict[str, list[float]] = {name: [] for name in engines}
        for turn in range(told.rounds + 1):
            for name, llm in engines.items():
                one = seconds(llm, told.batch, told.context, told.tokens)
                if turn:  # the first round warms up
                    took[name].append(one)
        for llm in engines.values():
            llm.llm_engine.engine_core.shutdown()
    ratios = {
        name: statistics.median(a / b for a, b in zip(times, took["plain"], strict=True))
        for name, times in took.items()
    }
    record = {
        "device": platform.processor() or platform.machine(),
        "cpus": os.cpu_count(),
        "vllm": versions.installed(),
        "torch": torch.__version__,
        "model": SIZES,
        "batch": told.batch,
        "context": told.context,
        "new_tokens": told.tokens,
        "seconds": took,
        "ratio_to_plain": ratios,
    }
    told.out.write_text(json.dumps(record, indent=1) + "\n")
    print(json.dumps(record["ratio_to_plain"]))


if __name__ == "__main__":
    main()
