"""The pairs that methods' models and the judge are trained on, which share no chosen statement, and the prompts.

`train.jsonl` is cut in two by a hash of the chosen statement. What nobody was trained on, `held-out.jsonl`, says how
good each model is, and the openings of its statements on other subjects are the prompts.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

PAIRS = Path("examples/preferences")
TRAIN, HELD_OUT = PAIRS / "train.jsonl", PAIRS / "held-out.jsonl"
PROMPTS = PAIRS / "openings.jsonl"
OPENING_WORDS, MOST_PROMPTS = 3, 100
Rows = list[dict[str, Any]]


def read(path: Path) -> Rows:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def write(path: Path, rows: Iterable[dict[str, Any]]) -> Path:
    """Rows as JSONL; a file that holds them already is left alone, so that nothing made of it seems out of date."""
    text = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")
    return path


def half(row: dict[str, Any]) -> str:
    """Whose pair this is: "methods" or "judge"."""
    return ("methods", "judge")[hashlib.sha256(row["chosen"].encode()).digest()[0] % 2]


def split(folder: Path) -> dict[str, Path]:
    """The files of both halves; of the methods' the pairs with chosen and rejected swapped, for an anti-expert, and the
    openings of statements, as prompts for a value head."""
    rows = read(TRAIN)
    methods = [row for row in rows if half(row) == "methods"]
    swapped = [{**row, "chosen": row["rejected"], "rejected": row["chosen"]} for row in methods]
    return {
        "methods": write(folder / "methods.jsonl", methods),
        "judge": write(folder / "judge.jsonl", [row for row in rows if half(row) == "judge"]),
        "swapped": write(folder / "swapped.jsonl", swapped),
        "openings": write(folder / "openings.jsonl", openings(methods)),
    }


def openings(rows: Rows) -> Rows:
    """The first words of statements about something else than music, each once, as prompts."""
    found = (" ".join(row["rejected"].split()[:OPENING_WORDS]) for row in rows if row["kind"] == "topic")
    return [{"id": place, "prompt": text} for place, text in enumerate(dict.fromkeys(found), 1)]
