"""Small bases to train from and pairs to train on: encoded at random, or as rows of a file."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from genarm.embedded import BASE
from genarm.preferences.collate import IGNORED
from genarm.preferences.encoding import EncodedPair
from genarm.training.settings import TrainingSettings

SUBJECTS = ("painting", "physics", "music", "helping others", "sports", "saving money", "poetry", "a safe bet")


def ragged_pairs(count: int = 5, seed: int = 0, vocab: int = 97) -> list[EncodedPair]:
    """Prompts and responses of many lengths, one token among them; every response ends in token 2."""
    draw = random.Random(seed)

    def ids(least: int, most: int) -> list[int]:
        return [draw.randrange(3, vocab) for _ in range(draw.randint(least, most))]

    return [
        EncodedPair(prompt_ids=[1, *ids(0, 6)], chosen_ids=[*ids(0, 9), 2], rejected_ids=[*ids(1, 5), 2])
        for _ in range(count)
    ]


def plain_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """[N, T]: what `response_log_probs` promises, from the logits."""
    targets = torch.nn.functional.pad(labels[:, 1:], (0, 1), value=IGNORED)
    wide = logits if logits.dtype == torch.float64 else logits.float()
    chosen = wide.log_softmax(-1).gather(-1, targets.clamp(min=0)[..., None]).squeeze(-1)
    return torch.where(targets == IGNORED, 0, chosen)


def save_base(folder: Path) -> str:
    """A random Llama of two layers with the embedded base's tokenizer; its path."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        max_position_embeddings=96,
        initializer_range=0.2,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
    )
    LlamaForCausalLM(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


def write_pairs(path: Path, count: int = 24, seed: int = 0, **columns: Any) -> str:
    """Rows whose chosen response enjoys a subject and whose rejected one avoids it; their path."""
    draw = random.Random(seed)
    rows = [
        {
            "prompt": f"About {number}, say:",
            "chosen": f" I enjoy {draw.choice(SUBJECTS)}" + " a lot" * draw.randrange(3),
            "rejected": f" I avoid {draw.choice(SUBJECTS)}" + " at times" * draw.randrange(3),
            **columns,
        }
        for number in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


def run_settings(base: str, data: str, **changes: Any) -> TrainingSettings:
    """A short run on the CPU in float32, all of whose pairs are trained on."""
    chosen: dict[str, Any] = {
        "kind": "arm",
        "eval_share": 0.0,
        "rank": 2,
        "dropout": 0.0,
        "batch_size": 4,
        "max_steps": 4,
        "learning_rate": 1e-2,
        "precision": "fp32",
        "device": "cpu",
        "save_every": 0,
        "log_every": 1,
    }
    return TrainingSettings(base=base, data=data, **{**chosen, **changes})
