"""Accuracy where length can help and where it cannot: pairs of statements of any length, and pairs of like lengths."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

import torch

from experiments.embedded.models import OBJECTIVES
from genarm.embedded import BASE, REWARDS
from genarm.evaluation.choices import Choice
from genarm.evaluation.pair_sets import read_set
from genarm.evaluation.report import as_record, reports
from genarm.evaluation.scorers import pair_scores, quiet
from genarm.models.options import Source
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.rows import read_rows

SURE = 0.8


def pairs_of_any_length(statements: list[dict[str, Any]], objective: str, count: int) -> list[dict[str, str]]:
    """``count`` pairs, drawn anew without regard to length.

    Chosen is a statement that someone with this persona would surely make; rejected is, in turns, one of the same
    persona's that they would not make, and one of another persona's.
    """
    own = [row for row in statements if row["persona"] == objective]
    chosen = [row["statement"] for row in own if row["matches"] and row["confidence"] >= SURE]
    kinds = {
        "stance": [row["statement"] for row in own if not row["matches"]],
        "topic": [row["statement"] for row in statements if row["persona"] != objective],
    }
    draw = random.Random(0)
    return [
        {"prompt": "", "chosen": draw.choice(chosen), "rejected": draw.choice(kinds[kind]), "kind": kind}
        for _ in range(-(-count // len(kinds)))
        for kind in kinds
    ][:count]


def accuracies(name: str, data: Path, out: Path, count: int, trajectory_rm: Path | None) -> list[dict[str, Any]]:
    """The reports of `genarm evaluate accuracy` on both sets of pairs, for an embedded adapter, the base, and a
    trajectory RM of that objective where there is one."""
    drawn = out / f"any-length-{name}.jsonl"
    rows = pairs_of_any_length(read_rows(data / "persona" / "statements.test.jsonl.gz"), OBJECTIVES[name], count)
    drawn.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    choices = [Choice("AR-RM", "arm", str(REWARDS[name]))]
    if trajectory_rm is not None:
        choices.append(Choice("trajectory RM", "trajectory-rm", str(trajectory_rm), "base"))
    with quiet():
        tokenizer = pair_tokenizer(str(BASE))
        test = str(data / "persona" / "pairs.test.jsonl.gz")
        sets = [
            read_set("any length", str(drawn), tokenizer),
            read_set("like lengths", test, tokenizer, where={"objective": OBJECTIVES[name]}),
        ]
        source = Source(torch.float32, torch.device("cpu"))
        scores = list(pair_scores(str(BASE), choices, [pairs.pairs for pairs in sets], tokenizer, source))
    # paths differ from place to place and say nothing here
    return [{**as_record(report), "path": Path(report.pairs.path).name} for report in reports(sets, scores)]
