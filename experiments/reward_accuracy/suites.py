"""The data sets that reward models are judged on, and how both methods are trained on each."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from genarm.preferences.rows import read_rows
from genarm.training.settings import Kind

OBJECTIVES = (
    *("agreeableness", "conscientiousness", "extraversion", "neuroticism", "openness"),
    *("interest-in-art", "interest-in-science", "interest-in-music", "interest-in-sports", "risk-seeking"),
)


@dataclass(frozen=True, slots=True)
class Suite:
    """Where a suite's pairs are, what selects an objective's, and how both methods are trained on them.

    ``rates`` are each method's own learning rate: on statements chosen by a part of one objective's training pairs, on
    texts one that was not tuned. All other settings are shared. ``separator`` stands between a prompt and a response
    that do not bring one.
    """

    files: str
    settings: dict[str, Any]
    rates: dict[Kind, float]
    objectives: tuple[str, ...] = ("all",)
    separator: str = ""
    test_limit: int | None = None

    def where(self, objective: str) -> dict[str, str]:
        return {} if self.objectives == ("all",) else {"objective": objective}

    def write(self, data: Path, split: str, folder: Path) -> Path:
        """A split's rows with the separator behind every prompt."""
        path = folder / f"{split}.jsonl"
        rows = read_rows(data / f"{self.files}.{split}.jsonl.gz")
        lines = (json.dumps({**row, "prompt": row["prompt"] + self.separator}) + "\n" for row in rows)
        path.write_text("".join(lines), encoding="utf-8")
        return path


# Long texts of many lengths: micro batches keep the padding down.
TEXTS = {"epochs": 1, "dropout": 0.0, "micro_batch_size": 8}
SUITES = {
    "persona": Suite(
        "persona/pairs",
        {"epochs": 3, "max_length": 128, "dropout": 0.0},
        {"arm": 5e-3, "trajectory-rm": 2e-3},
        OBJECTIVES,
    ),
    "hh_harmless": Suite(
        "hh_harmless", {**TEXTS, "max_length": 384, "limit": 800}, {"arm": 2e-3, "trajectory-rm": 2e-3}
    ),
    "alpaca_pairs": Suite(
        "alpaca_pairs",
        {**TEXTS, "max_length": 512, "limit": 200},
        {"arm": 2e-3, "trajectory-rm": 2e-3},
        separator="\n\n",
        test_limit=300,
    ),
}
