"""Whether `genarm train` with all its defaults leaves a reward model that orders unseen pairs right.

    python -m experiments.training_defaults --data DATA --personas agreeableness,risk-averse --out rows.jsonl

DATA is the directory that holds pairs.train.jsonl.gz and pairs.test.jsonl.gz, of many personas. Each run takes 600
pairs of one persona, in the file's order or shuffled, and the embedded base; it is measured on all of that persona's
test pairs, which no run sees. One row per run; a run whose row is there is not repeated. docs/training.md has the
figures.
"""

from __future__ import annotations

import argparse
import json
import random
import tempfile
from pathlib import Path
from typing import Any

from peft import PeftModel

from genarm.embedded import BASE
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import read_pairs
from genarm.preferences.rows import read_rows
from genarm.preferences.scoring import pair_rewards, sequence_scores
from genarm.preferences.statistics import share
from genarm.training.dataset import common_text
from genarm.training.models import untrained_model
from genarm.training.run import train
from genarm.training.settings import TrainingSettings

PAIRS = 600


def sample(data: Path, persona: str, order: str, folder: Path) -> Path:
    """The first 600 pairs of a persona in this order, as a file."""
    rows = [row for row in read_rows(data / "pairs.train.jsonl.gz") if row["objective"] == persona]
    if order == "shuffled":
        random.Random(1).shuffle(rows)
    path = folder / "pairs.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows[:PAIRS]), encoding="utf-8")
    return path


def measured(persona: str, order: str, kind: Any, data: Path, changes: dict[str, Any]) -> dict[str, Any]:
    """One run, and how it orders the persona's test pairs."""
    with tempfile.TemporaryDirectory() as place:
        pairs = sample(data, persona, order, Path(place))
        settings = TrainingSettings(kind=kind, base=str(BASE), data=str(pairs), **changes)
        record = train(settings, Path(place) / "out")
        model: Any = PeftModel.from_pretrained(untrained_model(settings), Path(place) / "out").eval()
        tests = read_pairs(data / "pairs.test.jsonl.gz", where={"objective": persona})
        tokenizer = pair_tokenizer(str(BASE))
        encoded = encode_pairs(tokenizer, tests)
        model.config.pad_token_id = tokenizer.pad_token_id
        score = sequence_scores if kind == "trajectory-rm" else pair_rewards
        scores = score(model, encoded.pairs, tokenizer.pad_token_id)
        if kind == "dpo":
            with model.disable_adapter():
                scores -= pair_rewards(model, encoded.pairs, tokenizer.pad_token_id)
    right = (scores[:, 0] > scores[:, 1]).numpy()
    stances = [tests[row].columns["kind"] == "stance" for row in encoded.kept]
    found = share(right, [common_text(tests[row]) for row in encoded.kept])
    metrics = record["metrics"]
    return {
        "persona": persona,
        "order": order,
        "kind": kind,
        "changes": changes,
        **{name: record["settings"][name] for name in ("learning_rate", "epochs", "batch_size")},
        **{name: metrics[name] for name in ("steps", "train_seconds", "train_accuracy", "eval_accuracy")},
        "eval_accuracy_interval": metrics["eval_accuracy_interval"],
        "held_out": record["data"]["held out"]["pairs"],
        "test_pairs": len(right),
        "test_accuracy": found.as_dict(),
        "test_accuracy_stance": round(float(right[stances].mean()), 4),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--personas", required=True, help="names, with commas between them")
    parser.add_argument("--order", choices=("file", "shuffled"), default="file")
    parser.add_argument("--kind", choices=("arm", "trajectory-rm", "dpo"), default="arm")
    parser.add_argument("--changes", type=json.loads, default={}, help="settings other than the defaults, as JSON")
    parser.add_argument("--out", type=Path, required=True)
    given = parser.parse_args()
    rows = [json.loads(line) for line in given.out.read_text().splitlines()] if given.out.is_file() else []
    for persona in given.personas.split(","):
        key = {"persona": persona, "order": given.order, "kind": given.kind, "changes": given.changes}
        if any(all(row[name] == value for name, value in key.items()) for row in rows):
            continue
        row = measured(persona, given.order, given.kind, given.data, given.changes)
        with given.out.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        print(persona, given.order, row["test_accuracy"], row["train_seconds"], flush=True)


if __name__ == "__main__":
    main()
