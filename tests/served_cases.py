"""Models, prompts and weights that the tests of guided decoding in vLLM share, and what is expected of them."""

from __future__ import annotations

import os
import shutil
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import torch

import genarm
from genarm import embedded
from genarm.serving.settings import ServedGuidance, ServedReward

RUNNER_V2 = os.environ.get("VLLM_USE_V2_MODEL_RUNNER") == "1"
BASE = str(embedded.BASE)
NAMES = ("art", "risk", "wide")
SUBJECTS = ("painting", "risks", "a long walk by the sea", "science", "money")
OPENINGS = ("I like", "Is it true that you enjoy", "On Sundays, when nobody else is there, I often think of", "Why")
PROMPTS = [f"{opening} {subject}" for opening in OPENINGS for subject in SUBJECTS]
TOKENS = 24
WEIGHTS = [
    {"art": 1.0, "risk": 0.5, "wide": 0.25},
    {"art": 2.0, "risk": 0.0, "wide": 0.0},
    {"art": -1.0, "risk": 1.5, "wide": 1.0},
    {"art": 0.0, "risk": 0.0, "wide": 0.0},
]


def guidance(wide: Path) -> ServedGuidance:
    paths = {"art": embedded.REWARDS["art"], "risk": embedded.REWARDS["risk"], "wide": wide}
    return ServedGuidance(tuple(ServedReward(name, str(paths[name]), WEIGHTS[0][name]) for name in NAMES))


def make_wide_model(folder: Path) -> Path:
    """A random Qwen2 with the base's tokenizer, another width and depth, and one id more than the base has."""
    from transformers import Qwen2Config, Qwen2ForCausalLM

    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=4097,
        hidden_size=128,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=512,
        initializer_range=0.2,
        bos_token_id=0,
        eos_token_id=1,
        tie_word_embeddings=False,
    )
    Qwen2ForCausalLM(config).save_pretrained(folder)
    for file in Path(BASE).glob("*token*"):
        shutil.copy(file, folder)
    return folder


BROKEN = 4000  # a token that no prompt here has


def make_broken_model(wide: Path, folder: Path) -> Path:
    """The same, but that every text which holds one token has NaN for logits from there on."""
    from transformers import AutoModelForCausalLM

    model: Any = AutoModelForCausalLM.from_pretrained(wide, dtype=torch.float32)
    with torch.no_grad():
        model.get_input_embeddings().weight[BROKEN] = torch.nan
    shutil.copytree(wide, folder)
    model.save_pretrained(folder)
    return folder


@cache
def decoder(wide: Path) -> genarm.GuidedDecoder:
    paths = {reward.name: reward.path for reward in guidance(wide).rewards}
    return genarm.GuidedDecoder.from_pretrained(BASE, paths, dtype="float32", device="cpu", max_batch_size=32)


def extra(weights: dict[str, float], **others: float) -> dict[str, float]:
    return {**{f"weights.{name}": weight for name, weight in weights.items()}, **others}


def expected(wide: Path, prompts: Sequence[list[int]], weights: Any, tokens: int, **settings: Any) -> list[list[int]]:
    """The embedded engine's greedy tokens."""
    out = decoder(wide).generate(prompts, weights=weights, max_new_tokens=tokens, temperature=0.0, **settings)
    return [row.tolist() for row in out.tokens]


def greedy(tokens: int = TOKENS, /, **numbers: float) -> Any:
    """vLLM's parameters of a greedy request with these weights."""
    from vllm import SamplingParams

    return SamplingParams(temperature=0.0, max_tokens=tokens, extra_args=numbers or None)


def ids(outputs: Any) -> tuple[list[list[int]], list[list[int]]]:
    """Of each request: the prompt's and the new tokens."""
    return [list(one.prompt_token_ids) for one in outputs], [list(one.outputs[0].token_ids) for one in outputs]
