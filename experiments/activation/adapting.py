"""The embedded base after a pass over a suite's texts, so that both kinds of AR-RM start from what can read them."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer

from experiments.activation.pairs import persona_texts
from experiments.embedded.models import training_arguments
from genarm.preferences.collate import StatementCollator
from genarm.preferences.pairs import read_pairs

LONGEST = 384  # tokens of a text


def adapt(name: str, base: Path, out: Path, data: Path) -> None:
    """One epoch on the suite's chosen texts of the train file behind their prompts, by the next token, into ``out``."""
    tokenizer = AutoTokenizer.from_pretrained(base)
    texts = persona_texts(data) if name == "persona" else _conversations(data)
    items = [{"input_ids": ids} for ids in (_ids(tokenizer, *text) for text in texts) if len(ids) <= LONGEST]
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    with tempfile.TemporaryDirectory() as work:
        arguments = training_arguments(
            Path(work),
            0,
            1,
            per_device_train_batch_size=16,
            learning_rate=5e-4,
            warmup_steps=0.05,
            train_sampling_strategy="group_by_length",
            logging_steps=100,
        )
        collate = StatementCollator(tokenizer.pad_token_id)
        Trainer(model=model, args=arguments, train_dataset=items, data_collator=collate).train()
    model.save_pretrained(out)
    tokenizer.save_pretrained(out)


def _conversations(data: Path) -> list[tuple[str, str]]:
    return [(str(pair.prompt), str(pair.chosen)) for pair in read_pairs(data / "hh_harmless.train.jsonl.gz")]


def _ids(tokenizer: Any, prompt: str, answer: str) -> list[int]:
    ids: list[int] = tokenizer(prompt)["input_ids"] + tokenizer(answer, add_special_tokens=False)["input_ids"]
    return [*ids, tokenizer.eos_token_id]
