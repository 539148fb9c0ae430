"""The embedded base learns from few pairs at the rate that is chosen for it. docs/training.md has the full figures."""

import json
from pathlib import Path

from genarm.embedded import BASE
from genarm.training.run import train
from genarm.training.settings import TrainingSettings

PAIRS = Path(__file__).parents[3] / "examples" / "preferences" / "train.jsonl"


def test_the_embedded_base_learns_at_the_rate_that_fits_it(tmp_path):
    """The shortest pairs alone, in small steps; at the rate of a 7B model the same run stays near chance."""
    rows = [row for row in map(json.loads, PAIRS.read_text().splitlines()) if row["kind"] == "topic"]
    rows.sort(key=lambda row: len(row["chosen"]) + len(row["rejected"]))
    (tmp_path / "short.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows[:160]))
    settings = TrainingSettings(
        kind="arm",
        base=str(BASE),
        data=str(tmp_path / "short.jsonl"),
        batch_size=8,
        epochs=1.6,
        eval_share=0.2,
        dropout=0.0,
        device="cpu",
    )
    record = train(settings, tmp_path / "out")
    assert record["settings"]["learning_rate"] == 8e-3
    assert record["metrics"]["eval_accuracy"] >= 0.8
    assert record["metrics"]["eval_accuracy_interval"][0] > 0.5
