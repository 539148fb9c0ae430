"""Writes what a comparison came to into docs/comparison.md, between markers: nothing there is copied by hand."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from bench import page as pages
from bench.report import environment

PAGE = Path("docs/comparison.md")
# A picture of the run -> its name beside the page, and what it shows.
PICTURES = {
    "compare.png": ("comparison.png", "every method's figures"),
    "trade-offs.png": ("comparison-trade-offs.png", "score against cost, and against the base"),
}
# Seconds per 128 tokens, 7B + 7B, and what GenARM's paper makes of them (Xu et al., ICLR 2025).
PAPER = {"genarm": 7.28, "args": 7.74, "cards": 87.09, "transfer_q": 130.53}


def write_page(folder: Path, models: dict[str, Any], page: Path = PAGE) -> None:
    """Put the tables of a finished comparison, the models' accuracies and the cost ratios into the page."""
    record = json.loads((folder / "compare.json").read_text(encoding="utf-8"))
    parts = {
        "tables": (folder / "compare.md").read_text(encoding="utf-8").strip(),
        "models": accuracies(models),
        "ratios": ratios(record),
        "machine": machine(record),
    }
    drawn = [name for name in PICTURES if (folder / name).exists()]
    parts["pictures"] = "\n\n".join(f"![{PICTURES[name][1]}]({PICTURES[name][0]})" for name in drawn)
    pages.write(page, parts)
    for name in drawn:
        shutil.copyfile(folder / name, page.parent / PICTURES[name][0])


def accuracies(models: dict[str, Any]) -> str:
    """How often each model orders the held-out pairs right."""
    lines = ["| model | kind | held-out pairs ordered right, % [95%] |", "|---|---|---|"]
    for row in models["scorers"]:
        if row["reduction"] != "mean":
            value, low, high = (100 * row["accuracy"][name] for name in ("value", "low", "high"))
            lines.append(f"| {row['name']} | {row['kind']} | {value:.1f} [{low:.1f}, {high:.1f}] |")
    return "\n".join(lines)


def ratios(record: dict[str, Any]) -> str:
    """Seconds per token of GenARM, ARGS, CARDS and Transfer-Q as ratios to GenARM's, the paper's beside them."""
    seconds = {row["label"]: row["seconds"] for row in record["methods"] if row["seconds"]}
    lines = [
        "| method | here, s per 128 tokens | here, GenARM = 1 | paper, s per 128 tokens | paper, GenARM = 1 |",
        "|---|---|---|---|---|",
    ]
    for label, paper in PAPER.items():
        own = seconds.get(label)
        here = ("–", "–") if own is None else (f"{own:.2f}", f"{own / seconds['genarm']:.2f}")
        lines.append(f"| {label} | {here[0]} | {here[1]} | {paper:.2f} | {paper / PAPER['genarm']:.2f} |")
    return "\n".join(lines)


def machine(record: dict[str, Any]) -> str:
    """What it was measured on."""
    here = environment()
    versions = ", ".join(f"{name} {number}" for name, number in record["versions"].items())
    return f"Measured by `make compare` on {here['device']}, {versions}."
