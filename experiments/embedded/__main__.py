"""Make the embedded models and measure them as they ship: tokenizer, base, four reward models in both kinds, figures,
model card.

    python -m experiments.embedded --data DATA               # everything; about 40 minutes on two CPU cores
    python -m experiments.embedded --data DATA --activated   # only the reward models that sleep on prompts
    python -m experiments.embedded --data DATA --evaluate    # figures and card of the models that are there

DATA is the directory that holds persona/statements.*.jsonl.gz and persona/pairs.*.jsonl.gz. The figures are the loss of
the base, accuracy on held-out pairs, and whether guided text is on topic. Needs the `train` extra.
"""

from __future__ import annotations

import argparse
import json
import platform
import shutil
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from experiments.embedded import models
from experiments.embedded.card import interval, write_card
from experiments.embedded.figures import WEIGHTS, activated_figures, classifier_check, pair_figures
from experiments.embedded.models import OBJECTIVES
from genarm.models.activation import Activation
from genarm.models.asleep import SleepingAdapter
from genarm.preferences.pairs import read_pairs
from genarm.preferences.rows import read_rows

ASSETS = Path(__file__).resolve().parents[2] / "genarm" / "assets"
BASE_EPOCHS = 8
ARM_EPOCHS = 3
PACKAGES = ("torch", "transformers", "peft", "accelerate", "tokenizers", "scikit-learn")


def statements_of(path: Path) -> list[str]:
    return [row["statement"] for row in read_rows(path)]


def environment() -> dict[str, Any]:
    """What the figures were measured with: versions and the number of threads, nothing that names a machine."""
    return {
        "python": platform.python_version(),
        **{name: version(name).split("+")[0] for name in PACKAGES},
        "device": "cpu",
        "threads": torch.get_num_threads(),
    }


def make_base(persona: Path, out: Path, work: Path, seed: int) -> tuple[PreTrainedTokenizerBase, dict[str, Any]]:
    train, test = (statements_of(persona / f"statements.{split}.jsonl.gz") for split in ("train", "test"))
    tokenizer = models.train_tokenizer(train, out / "base")
    started = time.perf_counter()
    models.train_base(tokenizer, train, test, out / "base", models.base_arguments(work, seed, BASE_EPOCHS))
    seconds = round(time.perf_counter() - started, 1)
    return tokenizer, {"train_statements": len(train), "epochs": BASE_EPOCHS, "train_seconds": seconds}


def make_arms(
    persona: Path, out: Path, work: Path, tokenizer: PreTrainedTokenizerBase, seed: int, activated: bool = False
) -> dict[str, Any]:
    figures = {}
    for name, objective in OBJECTIVES.items():
        print(f"reward model {name} ({objective}){', activated' * activated}", flush=True)
        pairs = read_pairs(persona / "pairs.train.jsonl.gz", objective=objective)
        place, activation = (out / f"{name}-activated", Activation()) if activated else (out / name, None)
        shutil.rmtree(place, ignore_errors=True)
        started = time.perf_counter()
        arguments = models.arm_arguments(work, seed, ARM_EPOCHS)
        models.train_arm(out / "base", tokenizer, pairs, place, arguments, activation)
        seconds = round(time.perf_counter() - started, 1)
        figures[name] = {"objective": objective, "train_pairs": len(pairs), "train_seconds": seconds}
    return figures


def make(persona: Path, out: Path, seed: int) -> dict[str, Any]:
    """Train everything into `out`, replacing what an earlier run left there; how that went."""
    started = time.perf_counter()
    shutil.rmtree(out / "base", ignore_errors=True)
    with tempfile.TemporaryDirectory() as work:
        tokenizer, base = make_base(persona, out, Path(work), seed)
        arms = make_arms(persona, out, Path(work), tokenizer, seed)
    training = {"command": "python -m experiments.embedded --data DATA", **trained(seed, started)}
    return {"training": training, "base": base, "reward_models": arms}


def make_activated(persona: Path, out: Path, seed: int) -> dict[str, Any]:
    """Train the reward models that sleep on prompts on the base that is there; how that went."""
    started, tokenizer = time.perf_counter(), AutoTokenizer.from_pretrained(out / "base")
    with tempfile.TemporaryDirectory() as work:
        arms = make_arms(persona, out, Path(work), tokenizer, seed, activated=True)
    command = "python -m experiments.embedded --data DATA --activated"
    return {"training": {"command": command, **trained(seed, started)}, "reward_models": arms}


def trained(seed: int, started: float) -> dict[str, Any]:
    """How models were trained since ``started``."""
    return {
        "seed": seed,
        "seconds": round(time.perf_counter() - started, 1),
        "precision": "bf16 autocast" if models.bf16_is_fast() else "fp32",
        "beta_r": models.BETA,
        "arm_epochs": ARM_EPOCHS,
        "environment": environment(),
    }


def measure_models(assets: Path, persona: Path, metrics: dict[str, Any]) -> None:
    """Loss of the base and pair accuracy of each reward model, into `metrics`."""
    tokenizer, base = AutoTokenizer.from_pretrained(assets / "base"), models.load_base(assets / "base")
    items = models.encode_statements(tokenizer, statements_of(persona / "statements.test.jsonl.gz"))
    metrics.setdefault("base", {}).update(
        parameters=base.num_parameters(),
        vocabulary=base.config.vocab_size,
        context=base.config.max_position_embeddings,
        test_statements=len(items),
        test_loss_per_token=round(models.loss_per_token(base, items, tokenizer.pad_token_id), 4),
    )
    for name, objective in OBJECTIVES.items():
        arm = models.load_arm(assets / "base", assets / name)
        figures = pair_figures(base, arm, tokenizer, persona / "pairs.test.jsonl.gz", objective)
        entry = metrics.setdefault("reward_models", {}).setdefault(name, {"objective": objective})
        entry.update(figures)


def measure_activated(assets: Path, persona: Path, metrics: dict[str, Any]) -> None:
    """Pair accuracy of the reward models that sleep on prompts, beside the ordinary ones', into `metrics`."""
    tokenizer = AutoTokenizer.from_pretrained(assets / "base")
    for name, objective in OBJECTIVES.items():
        ordinary = models.load_arm(assets / "base", assets / name)
        activated = models.load_arm(assets / "base", assets / f"{name}-activated")
        path, asleep = persona / "pairs.test.jsonl.gz", SleepingAdapter(activated, Activation())
        found = activated_figures(ordinary, activated, asleep, tokenizer, path, objective)
        metrics["activated"]["reward_models"][name].update(found)


def show(metrics: dict[str, Any]) -> None:
    table = Table(
        "objective", "accuracy", "base alone", "longer wins", "text: base", *(f"weight {w:g}" for w in WEIGHTS)
    )
    for name, figures in metrics["reward_models"].items():
        text = metrics["guided_text"][name]
        cells = [*(figures[key] for key in ("accuracy", "base_alone", "longer_wins")), text["base"]]
        table.add_row(name, *(interval(cell) for cell in [*cells, *text["guided"].values()]))
    console = Console(width=160)
    console.print(f"base: {metrics['base']['test_loss_per_token']} nats per token on held-out statements")
    console.print(table)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory that holds persona/")
    parser.add_argument("--out", type=Path, default=ASSETS, help="directory of the models (default: genarm/assets)")
    parser.add_argument("--activated", action="store_true", help="only the reward models that sleep on prompts")
    parser.add_argument("--evaluate", action="store_true", help="train nothing: measure the models in --out")
    parser.add_argument("--samples", type=int, default=300, help="texts sampled per setting (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    persona, kept = options.data / "persona", options.out / "metrics.json"
    torch.manual_seed(options.seed)
    metrics = json.loads(kept.read_text(encoding="utf-8")) if options.evaluate or options.activated else {}
    if not (options.evaluate or options.activated):
        metrics = make(persona, options.out, options.seed)
    if not options.evaluate:
        metrics["activated"] = make_activated(persona, options.out, options.seed)
    measure_activated(options.out, persona, metrics)
    if not options.activated:
        metrics["environment"] = environment()
        measure_models(options.out, persona, metrics)
        tokenizer = AutoTokenizer.from_pretrained(options.out / "base")
        metrics["guided_text"] = classifier_check(options.out, persona, tokenizer, options.samples, options.seed)
    kept.write_text(json.dumps(metrics, indent=2) + "\n", encoding="utf-8")
    write_card(options.out, metrics)
    show(metrics)


if __name__ == "__main__":
    main()
