"""Measure the embedded models as they ship: base loss, held-out pair accuracy, and whether guided text is on topic.

    python scripts/evaluate_embedded.py --data DATA

DATA is the directory that holds persona/statements.*.jsonl.gz and persona/pairs.*.jsonl.gz. Writes metrics.json and the
model card into the assets directory.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch
from embedded_arms import OBJECTIVES, load_arm
from embedded_base import encode_statements, load_base, loss_per_token
from embedded_card import interval, write_card
from embedded_classifier import WEIGHTS, classifier_check
from embedded_metrics import environment, pair_figures, read_metrics, write_metrics
from rich.console import Console
from rich.table import Table
from transformers import AutoTokenizer

from genarm.preferences.rows import read_rows

ASSETS = Path(__file__).resolve().parent.parent / "genarm" / "assets"


def measure_models(assets: Path, persona: Path, metrics: dict[str, Any]) -> None:
    """Loss of the base and pair accuracy of each reward model, into `metrics`."""
    tokenizer, base = AutoTokenizer.from_pretrained(assets / "base"), load_base(assets / "base")
    statements = [row["statement"] for row in read_rows(persona / "statements.test.jsonl.gz")]
    items = encode_statements(tokenizer, statements)
    metrics.setdefault("base", {}).update(
        parameters=base.num_parameters(),
        vocabulary=base.config.vocab_size,
        context=base.config.max_position_embeddings,
        test_statements=len(items),
        test_loss_per_token=round(loss_per_token(base, items, tokenizer.pad_token_id), 4),
    )
    for name, objective in OBJECTIVES.items():
        arm = load_arm(assets / "base", assets / name)
        figures = pair_figures(base, arm, tokenizer, persona / "pairs.test.jsonl.gz", objective)
        entry = metrics.setdefault("reward_models", {}).setdefault(name, {"objective": objective})
        entry.update(figures)


def show(metrics: dict[str, Any]) -> None:
    table = Table(
        "objective", "accuracy", "base alone", "longer wins", "text: base", *(f"weight {w:g}" for w in WEIGHTS)
    )
    for name, figures in metrics["reward_models"].items():
        text = metrics["guided_text"][name]
        cells = [
            figures["accuracy"],
            figures["base_alone"],
            figures["longer_wins"],
            text["base"],
            *text["guided"].values(),
        ]
        table.add_row(name, *(interval(cell) for cell in cells))
    console = Console(width=160)
    console.print(f"base: {metrics['base']['test_loss_per_token']} nats a token on held-out statements")
    console.print(table)


def evaluate(assets: Path, data: Path, samples: int, seed: int) -> None:
    """Measure everything, write metrics.json and the card, print a table."""
    persona, metrics = data / "persona", read_metrics(assets)
    metrics["environment"] = environment()
    measure_models(assets, persona, metrics)
    tokenizer = AutoTokenizer.from_pretrained(assets / "base")
    metrics["guided_text"] = classifier_check(assets, persona, tokenizer, samples, seed)
    write_metrics(assets, metrics)
    write_card(assets, metrics)
    show(metrics)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True, help="directory that holds persona/")
    parser.add_argument("--assets", type=Path, default=ASSETS, help="directory of the models (default: genarm/assets)")
    parser.add_argument("--samples", type=int, default=300, help="texts sampled a setting (default: 300)")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()
    torch.manual_seed(arguments.seed)
    evaluate(arguments.assets, arguments.data, arguments.samples, arguments.seed)


if __name__ == "__main__":
    main()
