"""A small base model of the texts at hand, for judging reward models on them: trained from scratch, never shipped.

    python -m experiments.reward_accuracy.base --data DATA --out FOLDER

Every distinct text of the train files (conversations with both replies, instructions with both responses, statements)
is one document `<s> text </s>`; documents are cut to 512 tokens and batched by length. Nothing of a test file is seen.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from transformers import LlamaForCausalLM, Trainer, TrainingArguments

from experiments.embedded.models import (
    base_config,
    bf16_is_fast,
    loss_per_token,
    save_base,
    train_tokenizer,
    training_arguments,
)
from genarm.preferences.collate import StatementCollator
from genarm.preferences.rows import read_rows

VOCABULARY = 8192
LONGEST = 512
PAIRS = ("hh_harmless.train.jsonl.gz", "alpaca_pairs.train.jsonl.gz")
STATEMENTS = "persona/statements.train.jsonl.gz"
JOINT = {"hh_harmless": "", "alpaca_pairs": "\n\n"}


def documents(data: Path, limit: int | None = None) -> Iterator[str]:
    """Distinct texts, in the order of the files."""
    seen: dict[str, None] = {}
    for file in PAIRS:
        joint = JOINT[file.split(".")[0]]
        for row in read_rows(data / file)[:limit]:
            for side in ("chosen", "rejected"):
                seen.setdefault(row["prompt"] + joint + row[side])
    for row in read_rows(data / STATEMENTS)[:limit]:
        seen.setdefault(row["statement"])
    yield from seen


def arguments(work: Path, epochs: float, seed: int) -> TrainingArguments:
    return training_arguments(
        work,
        seed,
        epochs,
        per_device_train_batch_size=8,
        learning_rate=1.5e-3,
        warmup_steps=0.05,
        weight_decay=0.1,
        adam_beta2=0.98,
        train_sampling_strategy="group_by_length",
        logging_steps=50,
        use_cpu=not torch.cuda.is_available(),
        bf16=torch.cuda.is_available() or bf16_is_fast(),
    )


def encode(tokenizer: Any, texts: list[str]) -> list[dict[str, list[int]]]:
    rows = tokenizer(texts, add_special_tokens=False)["input_ids"]
    ends = tokenizer.bos_token_id, tokenizer.eos_token_id
    return [{"input_ids": [ends[0], *ids, ends[1]][:LONGEST]} for ids in rows]


def make(data: Path, out: Path, epochs: float, seed: int, limit: int | None = None) -> float:
    """Train into ``out``; nats per token on the statements held out, by which every base here can be compared."""
    torch.manual_seed(seed)
    texts = list(documents(data, limit))
    tokenizer = train_tokenizer(texts, out, VOCABULARY)
    items = encode(tokenizer, texts)
    print(f"{len(items):,} documents, {sum(len(item['input_ids']) for item in items):,} tokens per epoch", flush=True)
    config = base_config(tokenizer)
    config.attention_dropout = 0.0  # with it, attention on a CPU writes all its scores: three times the step
    model = LlamaForCausalLM(config)
    with tempfile.TemporaryDirectory() as work:
        Trainer(
            model=model,
            args=arguments(Path(work), epochs, seed),
            train_dataset=items,
            data_collator=StatementCollator(tokenizer.pad_token_id),
            processing_class=tokenizer,
        ).train()
    test = [row["statement"] for row in read_rows(data / STATEMENTS.replace("train", "test"))]
    loss = loss_per_token(model.eval().cpu(), encode(tokenizer, test), tokenizer.pad_token_id)
    save_base(model, out)
    return loss


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="the folder of the data sets")
    parser.add_argument("--out", type=Path, required=True, help="where the base goes")
    parser.add_argument("--epochs", type=float, default=2.0)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    started = time.perf_counter()
    loss = make(options.data, options.out, options.epochs, options.seed)
    print(f"{loss:.3f} nats per token on test statements; {time.perf_counter() - started:.0f} s")


if __name__ == "__main__":
    main()
