"""training.json: written whole, read with care, and told apart by what two runs were made from."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from training_cases import run_settings

from genarm.errors import InvalidArgumentError
from genarm.training import record

FACTS = {"data_sha256": "abc", "train": {"pairs": 3}, "held out": {"pairs": 0}}


def begun(base: str = "base", facts: dict[str, Any] = FACTS, **changes: Any) -> dict[str, Any]:
    return record.begin(run_settings(base, "data", **changes), facts)


@pytest.mark.parametrize(("kind", "beta"), [("arm", 0.3), ("dpo", 0.3), ("trajectory-rm", None)])
def test_what_readers_of_the_weights_need_comes_first(kind: str, beta: float | None) -> None:
    found = begun(kind=kind, beta=0.3, objective="joy", seed=5)
    assert list(found)[:4] == ["kind", "objective", "beta", "base"]
    assert (found["kind"], found["objective"], found["beta"], found["base"]) == (kind, "joy", beta, "base")
    assert (found["state"], found["seed"], found["data"]) == ("running", 5, FACTS)
    assert found["versions"].keys() == {"torch", "transformers", "peft", "accelerate", "trl"}


def test_a_record_is_read_as_it_was_written(tmp_path: Path) -> None:
    found = record.finish(begun(objective="Freude – ☀"), {"steps": 4}, [{"loss": 0.5, "step": 4}])
    record.write(tmp_path / "new" / "folder", found)
    assert record.read(tmp_path / "new" / "folder") == json.loads(json.dumps(found)) == found
    assert [file.name for file in (tmp_path / "new" / "folder").iterdir()] == ["training.json"]
    assert found["state"] == "complete" and found["metrics"] == {"steps": 4}
    assert record.read(tmp_path) is None


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"kind": "arm", "settings"', "is damaged"),
        ("", "is damaged"),
        ("\udcff", "is damaged"),
        ("[1, 2]", "is no record of a training run"),
        ('{"epochs": 3}', "is no record of a training run"),
        ('{"settings": {}, "data": null}', "is no record of a training run"),
        ('{"settings": {}, "data": {}, "state": "complete"}', "is no record of a training run"),
    ],
)
def test_a_damaged_record_is_an_error_and_not_another_run(text: str, reason: str, tmp_path: Path) -> None:
    (tmp_path / "training.json").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(InvalidArgumentError, match=f"training.json {reason}.*choose another folder"):
        record.read(tmp_path)


def test_runs_differ_in_the_settings_that_shape_them_and_in_their_rows() -> None:
    first = begun()
    assert record.differences(first, begun()) == []
    assert record.differences(first, begun(log_every=7, save_every=3, device="auto")) == []
    assert record.differences(first, begun(beta=0.7, seed=9)) == ["beta", "seed"]
    assert record.differences(first, begun(kind="dpo")) == ["kind"]
    assert record.differences(first, begun(facts={**FACTS, "data_sha256": "xyz"})) == ["data"]
    assert record.differences(first, begun(facts={**FACTS, "train": {"pairs": 2}})) == ["data"]
    assert record.differences(first, {**begun(), "versions": {"torch": "0"}}) == []


def test_the_same_rows_in_another_place_are_the_same_run() -> None:
    moved = record.begin(run_settings("base", "elsewhere"), FACTS)
    assert record.differences(begun(), moved) == []


def test_a_base_that_was_trained_anew_is_another_base(tmp_path: Path) -> None:
    (tmp_path / "model.safetensors").write_bytes(b"old")
    first = begun(str(tmp_path))
    (tmp_path / "model.safetensors").write_bytes(b"new")
    assert record.differences(first, begun(str(tmp_path))) == ["base"]
    assert record.differences(first, begun("other")) == ["base"]


def test_a_record_of_an_older_form_is_another_run() -> None:
    older = begun()
    del older["settings"]["max_length"]
    assert record.differences(older, begun()) == ["max_length"]
