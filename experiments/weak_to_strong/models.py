"""Bases of three sizes, an AR-RM on each, and a trajectory RM that judges all texts. The largest base ships already.

The two smaller bases are trained from scratch on the same statements, with the same tokenizer and the same optimiser
settings as the embedded base, and their reward models on the same pairs by the same recipe as the embedded adapters.
What OUT holds already is not trained again.
"""

from __future__ import annotations

import json
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import AutoTokenizer

from experiments.embedded import models
from experiments.embedded.figures import accuracy, rounded
from genarm.embedded import BASE, REWARDS
from genarm.models.loading import load_scorer
from genarm.models.options import make_source
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import read_pairs
from genarm.preferences.rows import read_rows
from genarm.preferences.scoring import sequence_scores
from genarm.preferences.statistics import share
from genarm.training.run import train
from genarm.training.settings import TrainingSettings

PERSONA = models.OBJECTIVES["art"]
ARM_EPOCHS, JUDGE_EPOCHS = 3, 2


@dataclass(frozen=True, slots=True)
class Size:
    """A base's shape and how long it is trained. ``ships``: it is the embedded base, with its adapter."""

    hidden: int
    layers: int
    heads: int
    epochs: float
    ships: bool = False


SIZES = {
    "tiny": Size(32, 1, 1, 2),
    "small": Size(64, 2, 2, 4),
    "large": Size(256, 6, 4, 8, ships=True),
}


@dataclass(frozen=True, slots=True)
class Place:
    """Where the data are and where models, texts and figures go.

    ``limit`` caps training statements, training pairs and test rows, for a trial; None takes all.
    """

    data: Path
    out: Path
    limit: int | None = None

    def base(self, size: str) -> Path:
        return BASE if SIZES[size].ships else self.out / "bases" / size

    def reward_model(self, size: str) -> Path:
        return REWARDS["art"] if SIZES[size].ships else self.out / "reward_models" / size

    def statements(self, split: str) -> list[str]:
        rows = read_rows(self.data / "persona" / f"statements.{split}.jsonl.gz")[: self.limit]
        return [row["statement"] for row in rows]

    def pairs(self, split: str) -> Path:
        return self.data / "persona" / f"pairs.{split}.jsonl.gz"


def once(folder: Path, make: Callable[[Path], None]) -> None:
    """Make a folder unless it is there; one that is begun and left has another name, so it is made anew."""
    if folder.is_dir():
        return
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent, prefix=f".{folder.name}-") as begun:
        started = time.perf_counter()
        (Path(begun) / folder.name).mkdir()
        make(Path(begun) / folder.name)
        seconds = {"train_seconds": round(time.perf_counter() - started, 1)}
        (Path(begun) / folder.name / "seconds.json").write_text(json.dumps(seconds), encoding="utf-8")
        (Path(begun) / folder.name).rename(folder)


def seconds(folder: Path) -> float | None:
    """How long `once` took to make a folder; None for a model that ships."""
    path = folder / "seconds.json"
    return float(json.loads(path.read_text(encoding="utf-8"))["train_seconds"]) if path.is_file() else None


def make_base(place: Place, size: str) -> None:
    shape = SIZES[size]

    def make(folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(BASE)
        tokenizer.save_pretrained(folder)
        config = models.base_config(tokenizer, shape.hidden, shape.layers, shape.heads)
        with tempfile.TemporaryDirectory() as work:
            arguments = models.base_arguments(Path(work), seed=0, epochs=shape.epochs)
            texts = place.statements("train"), place.statements("test")[:640]
            models.train_base(tokenizer, *texts, folder, arguments, config)

    if not shape.ships:
        once(place.base(size), make)


def make_reward_model(place: Place, size: str) -> None:
    def make(folder: Path) -> None:
        tokenizer = AutoTokenizer.from_pretrained(BASE)
        pairs = read_pairs(place.pairs("train"), objective=PERSONA)[: place.limit]
        with tempfile.TemporaryDirectory() as work:
            arguments = models.arm_arguments(Path(work), seed=0, epochs=ARM_EPOCHS)
            models.train_arm(place.base(size), tokenizer, pairs, folder, arguments)

    if not SIZES[size].ships:
        once(place.reward_model(size), make)


def make_judge(place: Place) -> Path:
    """A trajectory RM on the large base, trained by `genarm train`; nothing is decoded by it."""
    folder = place.out / "judge"

    def make(begun: Path) -> None:
        settings = TrainingSettings(
            kind="trajectory-rm",
            base=str(BASE),
            data=str(place.pairs("train")),
            where={"objective": PERSONA},
            limit=place.limit,
            objective=PERSONA,
            eval_share=0.0,
            epochs=JUDGE_EPOCHS,
            learning_rate=2e-3,
            max_length=128,
            device="cpu",
            save_every=0,
        )
        train(settings, begun)

    once(folder, make)
    return folder


def load_judge(folder: Path, pad_token_id: int) -> Any:
    """The judge in float32, on the embedded base."""
    scorer = load_scorer(str(BASE), make_source("float32", "cpu", False, {}), new_score=True)
    scorer.config.pad_token_id = pad_token_id
    return PeftModel.from_pretrained(scorer, folder).eval()


def judge_facts(place: Place, folder: Path) -> dict[str, Any]:
    """How often the judge orders the persona's test pairs right."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    pairs = read_pairs(place.pairs("test"), objective=PERSONA)[: place.limit]
    encoded, pad = encode_pairs(tokenizer, pairs).pairs, tokenizer.pad_token_id
    scores = sequence_scores(load_judge(folder, pad), encoded, pad)
    right = share((scores[:, 0] > scores[:, 1]).numpy(), [pair.chosen for pair in pairs])
    return {"accuracy": rounded(right), "pairs": len(pairs), "seconds": seconds(folder)}


def model_facts(place: Place, size: str) -> dict[str, Any]:
    """Size, loss on test statements, and how often its AR-RM orders the persona's test pairs right."""
    tokenizer, base = AutoTokenizer.from_pretrained(BASE), models.load_base(place.base(size))
    items = models.encode_statements(tokenizer, place.statements("test"))
    arm = models.load_arm(place.base(size), place.reward_model(size))
    pairs = read_pairs(place.pairs("test"), objective=PERSONA)[: place.limit]
    shape = SIZES[size]
    return {
        "hidden": shape.hidden,
        "layers": shape.layers,
        "epochs": shape.epochs,
        "parameters": base.num_parameters(),
        "test_loss_per_token": round(models.loss_per_token(base, items, tokenizer.pad_token_id), 4),
        "base_seconds": seconds(place.base(size)),
        "arm_seconds": seconds(place.reward_model(size)),
        "arm_accuracy": accuracy(arm, tokenizer, pairs),
        "base_accuracy": accuracy(base, tokenizer, pairs),
    }
