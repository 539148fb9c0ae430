"""Make the embedded models: tokenizer, base, four reward models, metrics.json and the model card.

    python scripts/train_embedded.py --data DATA

DATA is the directory that holds persona/statements.*.jsonl.gz and persona/pairs.*.jsonl.gz. Seeded; about half an
hour on two CPU cores. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
import time
from pathlib import Path
from typing import Any

from embedded_arms import BETA, OBJECTIVES, arm_arguments, train_arm
from embedded_base import base_arguments, bf16_is_fast, train_base, train_tokenizer
from embedded_metrics import environment, write_metrics
from evaluate_embedded import ASSETS, evaluate
from transformers import PreTrainedTokenizerBase

from genarm.preferences.pairs import read_pairs
from genarm.preferences.rows import read_rows

BASE_EPOCHS = 8
ARM_EPOCHS = 3


def statements_of(path: Path) -> list[str]:
    return [row["statement"] for row in read_rows(path)]


def make_base(persona: Path, out: Path, work: Path, seed: int) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    train, test = (statements_of(persona / f"statements.{split}.jsonl.gz") for split in ("train", "test"))
    tokenizer = train_tokenizer(train, out / "base")
    started = time.perf_counter()
    train_base(tokenizer, train, test, out / "base", base_arguments(work, seed, BASE_EPOCHS))
    seconds = round(time.perf_counter() - started, 1)
    return tokenizer, {"train_statements": len(train), "epochs": BASE_EPOCHS, "train_seconds": seconds}


def make_arms(persona: Path, out: Path, work: Path, tokenizer: PreTrainedTokenizerBase, seed: int) -> dict[str, Any]:
    figures = {}
    for name, objective in OBJECTIVES.items():
        print(f"reward model {name} ({objective})", flush=True)
        pairs = read_pairs(persona / "pairs.train.jsonl.gz", objective=objective)
        started = time.perf_counter()
        train_arm(out / "base", tokenizer, pairs, out / name, arm_arguments(work, seed, ARM_EPOCHS))
        seconds = round(time.perf_counter() - started, 1)
        figures[name] = {"objective": objective, "train_pairs": len(pairs), "train_seconds": seconds}
    return figures


def make(data: Path, out: Path, seed: int) -> None:
    """Train everything into `out`, replacing what an earlier run left there."""
    persona, started = data / "persona", time.perf_counter()
    for name in ("base", *OBJECTIVES):
        shutil.rmtree(out / name, ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        tokenizer, base = make_base(persona, out, Path(work), seed)
        arms = make_arms(persona, out, Path(work), tokenizer, seed)
    training = {
        "command": "python scripts/train_embedded.py --data DATA",
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "precision": "bf16 autocast" if bf16_is_fast() else "fp32",
        "beta_r": BETA,
        "arm_epochs": ARM_EPOCHS,
        "environment": environment(),
    }
    write_metrics(out, {"training": training, "base": base, "reward_models": arms})


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory that holds persona/")
    parser.add_argument("--out", type=Path, default=ASSETS, help="where the models go (default: genarm/assets)")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--samples", type=int, default=300, help="texts sampled a setting in the evaluation")
    arguments = parser.parse_args()
    make(arguments.data, arguments.out, arguments.seed)
    evaluate(arguments.out, arguments.data, arguments.samples, arguments.seed)


if __name__ == "__main__":
    main()
