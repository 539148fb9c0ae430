"""Trains what the methods need on the embedded base, each model once: a folder that is complete is left as it is."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch

from experiments.comparison.data import HELD_OUT, split
from genarm.embedded import BASE
from genarm.evaluation.choices import Choice
from genarm.evaluation.pair_sets import PairSet, read_set
from genarm.evaluation.report import as_record, reports
from genarm.evaluation.scorers import pair_scores, quiet
from genarm.models.options import Source
from genarm.preferences.chat import pair_tokenizer
from genarm.training.run import train
from genarm.training.settings import Kind, TrainingSettings

ACCURACIES = "models.json"
SHARED = {"epochs": 5, "max_length": 128, "dropout": 0.0, "eval_share": 0.0, "save_every": 0, "device": "cpu"}


@dataclass(frozen=True, slots=True)
class Planned:
    """One model: its kind, the file that it is trained on, its learning rate, its seed, and settings of its kind."""

    kind: Kind
    data: str
    rate: float
    seed: int = 0
    own: Mapping[str, Any] = field(default_factory=dict)


# The rates are those that reward_accuracy chose for each kind on other personas; DPO's is the kind's own for this base.
MODELS = {
    "arm": Planned("arm", "methods", 5e-3),
    "anti-arm": Planned("arm", "swapped", 5e-3),
    "trajectory-rm": Planned("trajectory-rm", "methods", 2e-3),
    "dpo": Planned("dpo", "methods", 8e-4),
    "value": Planned("value", "openings", 2e-3, own={"new_tokens": 40, "epochs": 3}),
    "judge": Planned("trajectory-rm", "judge", 2e-3, seed=1),
}


def train_all(folder: Path, say: Callable[[str], None]) -> None:
    """Every model of MODELS into a folder of its name."""
    files = split(folder.parent / "data")
    for name, planned in MODELS.items():
        started = time.perf_counter()
        settings = TrainingSettings(
            kind=planned.kind,
            base=str(BASE),
            data=str(files[planned.data]),
            objective=name,
            learning_rate=planned.rate,
            seed=planned.seed,
            trajectory_rm=str(folder / "trajectory-rm") if planned.kind == "value" else None,
            **{**SHARED, **planned.own},
        )
        train(settings, folder / name)
        say(f"{name}: {time.perf_counter() - started:.0f} s")


def judge_all(folder: Path) -> dict[str, Any]:
    """How often each model orders the held-out pairs right, its interval, and what length alone would get."""
    tokenizer = pair_tokenizer(str(BASE), False)
    pairs: PairSet = read_set("held-out", str(HELD_OUT), tokenizer, 128)
    judges = {name: planned.kind for name, planned in MODELS.items() if planned.kind != "value"}  # of whole responses
    choices = [Choice(name, kind, str(folder / name)) for name, kind in judges.items()]
    source = Source(torch.float32, torch.device("cpu"))
    with quiet():
        scores = list(pair_scores(str(BASE), choices, [pairs.pairs], tokenizer, source))
    record = as_record(reports([pairs], scores)[0])
    (folder / ACCURACIES).write_text(json.dumps(record, indent=1) + "\n", encoding="utf-8")
    return record
