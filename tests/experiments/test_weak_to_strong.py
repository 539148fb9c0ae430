"""The weak-to-strong study, run small, and the arithmetic of the gap on curves whose answer is known."""

import gzip
import json

import numpy as np
import pytest

from experiments.weak_to_strong import __main__ as study
from experiments.weak_to_strong import figures, models, overhead, texts
from experiments.weak_to_strong.gap import Curve, gap_at_kl, gap_at_weight, recovered
from experiments.weak_to_strong.models import PERSONA, Size, once

N = 200


def line(slope: float, kls: tuple[float, ...], noise: float = 0.0) -> Curve:
    """N texts per weight whose score rises by ``slope`` per nat; all rows of one text share its noise."""
    draws = noise * np.random.default_rng(0).standard_normal(N)
    kl = np.array(kls)[:, None] + np.zeros(N)
    return Curve(1.0 + slope * kl + draws, kl)


def base(noise: float = 0.0) -> np.ndarray:
    return line(0.0, (0.0,), noise).scores[0]


def test_the_share_recovered_is_that_of_the_large_models_gain():
    assert recovered(np.array([1.0]), np.array([2.0]), np.array([5.0])).tolist() == [0.25]
    assert recovered(np.array([1.0]), np.array([0.0]), np.array([5.0])).tolist() == [-0.25]
    assert np.isnan(recovered(np.array([1.0]), np.array([2.0]), np.array([1.0]))).all()


def test_two_curves_are_compared_at_one_divergence_and_not_at_one_weight():
    small, large = line(0.5, (1.0, 2.0)), line(1.0, (2.0, 6.0))
    for kl in (0.5, 1.0, 1.7, 2.0):
        assert gap_at_kl(base(), small, large, kl).value == pytest.approx(0.5)
    assert gap_at_weight(base(), small.scores[0], large.scores[0]).value == pytest.approx(0.25)
    with pytest.raises(ValueError, match="outside of what both curves reach, 0 to 2"):
        gap_at_kl(base(), small, large, 2.5)


def test_texts_of_one_noise_are_resampled_together():
    found = gap_at_kl(base(3.0), line(0.5, (1.0, 2.0), 3.0), line(1.0, (2.0, 6.0), 3.0), 2.0)
    assert (found.low, found.high) == (pytest.approx(0.5), pytest.approx(0.5))


def test_the_interval_covers_the_truth_as_often_as_it_says():
    draw, hits = np.random.default_rng(1), 0
    for _ in range(60):
        alone, small, large = (mean + draw.standard_normal(N) for mean in (0.0, 1.0, 2.0))
        found = gap_at_weight(alone, small, large, draws=400)
        hits += found.low <= 0.5 <= found.high
    assert 52 <= hits <= 60


def test_there_is_no_interval_where_the_large_model_may_gain_nothing():
    draw = np.random.default_rng(2)
    found = gap_at_weight(*(draw.standard_normal(N) for _ in range(3)))
    assert np.isnan(found.low) and np.isnan(found.high)


def test_what_was_left_half_way_is_made_anew(tmp_path):
    def fails(folder):
        (folder / "half").touch()
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        once(tmp_path / "model", fails)
    once(tmp_path / "model", lambda folder: (folder / "whole").touch())
    once(tmp_path / "model", fails)
    assert sorted(path.name for path in (tmp_path / "model").iterdir()) == ["seconds.json", "whole"]


def write_data(folder, count: int) -> None:
    """Statements and pairs of two personas, the same for training and test."""
    (folder / "persona").mkdir(parents=True)
    said = {PERSONA: "I love painting", "interest-in-sports": "I run a lot"}
    statements = [
        {"statement": f"{text} {n}", "persona": persona, "matches": True}
        for n in range(count)
        for persona, text in said.items()
    ]
    pairs = [
        {
            "objective": PERSONA,
            "kind": "topic",
            "prompt": "",
            "chosen": f"I love painting {n}",
            "rejected": f"I run {n}",
        }
        for n in range(count)
    ]
    for name, rows in (("statements", statements), ("pairs", pairs)):
        for split in ("train", "test"):
            lines = "\n".join(map(json.dumps, rows))
            (folder / "persona" / f"{name}.{split}.jsonl.gz").write_bytes(gzip.compress(lines.encode()))


def test_the_study_runs_from_data_to_tables_and_goes_on_where_it_was_left(tmp_path, monkeypatch, capsys):
    write_data(tmp_path / "data", 4)
    monkeypatch.setitem(models.SIZES, "small", Size(8, 1, 1, 1))
    monkeypatch.delitem(models.SIZES, "tiny")
    for module in (texts, figures):
        monkeypatch.setattr(module, "WEIGHTS", (1.0, 2.0))
    for module in (texts, overhead):
        monkeypatch.setattr(module, "NEW_TOKENS", 4)
    monkeypatch.setattr(overhead, "BATCHES", (1,))
    monkeypatch.setattr(models, "JUDGE_EPOCHS", 1)
    out, picture = tmp_path / "out", tmp_path / "picture.png"
    command = ["--data", str(tmp_path / "data"), "--output", str(out), "--texts", "2", "--seeds", "5", "--rounds", "1"]
    assert study.main([*command, "--picture", str(picture)]) == 0
    result = json.loads((out / study.FILE).read_text())
    kept = {(row["base"], row["reward_model"], row["weight"]): row for row in result["points"]}
    assert len(kept) == 2 + 2 * (1 + 2) and all(row["texts"] == 2 for row in kept.values())
    assert kept["large", None, 0.0]["kl"]["value"] == pytest.approx(0, abs=1e-5)
    assert kept["large", "large", 2.0]["kl"]["value"] > 0.1
    floors = {row["reward_model"]: row["floor"] for row in result["overhead"]}
    assert floors["no guidance"] == 1 and floors["large, weights of its own"] == 2
    assert 1 < floors["small, on its own base"] < floors["large, an adapter on the base's weights"] < 1.1
    assert picture.stat().st_size > 10_000 and "| large | small |" in capsys.readouterr().out

    made = {
        path: path.stat().st_mtime_ns for folder in ("bases", "judge", "texts") for path in (out / folder).rglob("*")
    }
    (out / "texts" / "large-small-5.json").unlink()
    texts.make_texts(models.Place(tmp_path / "data", out), out / "judge", 2, [5])
    assert [path.name for path, time in made.items() if path.is_file() and path.stat().st_mtime_ns != time] == [
        "large-small-5.json"
    ]
    again = texts.read_texts(models.Place(tmp_path / "data", out), [5])
    assert figures.points(again) == result["points"]
