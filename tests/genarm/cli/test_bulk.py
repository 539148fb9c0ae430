"""`genarm generate --engine ray` writes every row once, whatever comes back how often; here without vLLM and Ray."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from genarm.cli import bulk
from genarm.cli.app import main
from genarm.errors import RunError


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    path = tmp_path / "rows.jsonl"
    lines = [{"id": number, "prompt": f"I like {number}"} for number in range(5)]
    lines[3]["weights"] = {"tree": 1.0}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


class Cluster:
    """Answers in an order of its own, some of them twice, and ends with an error after so many."""

    def __init__(self, most: int | None = None) -> None:
        self.most, self.asked, self.engine = most, [], None

    def __call__(self, engine: Any, requests: Any, address: Any, engines: Any) -> Iterator[tuple[int, dict[str, Any]]]:
        self.engine = engine
        self.asked.append(len(requests))
        for count, place in enumerate([*reversed(requests), *requests]):
            if count == self.most:
                raise RunError("the engines failed: finished rows are kept")
            yield place, {"text": f"t{len(self.asked)}", "tokens": [5], "finish_reason": "length", "stop_reason": None}


def generate(rows: Path, *options: str) -> int:
    line = ["generate", "--input", str(rows), "--reward", "art:0.5", "--engine", "ray", "--max-new-tokens", "4"]
    return main([*line, *options])


def written(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_rows_come_once_and_in_order(rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cluster, output = Cluster(), tmp_path / "out.jsonl"
    monkeypatch.setattr(bulk, "answers", cluster)
    assert generate(rows, "--output", str(output), "--dtype", "float32", "--batch-size", "3") == 1  # one row failed
    found = written(output)
    assert [row["id"] for row in found] == [0, 1, 2, 3, 4] and cluster.asked == [4]
    assert [row["finish_reason"] for row in found] == ["length"] * 3 + ["error", "length"]
    assert found[0]["weights"] == {"art": 0.5}
    assert (cluster.engine.dtype, cluster.engine.batch_size) == ("float32", 3)


def test_a_run_that_ended_early_asks_for_what_is_missing(
    rows: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    cluster, output = Cluster(most=2), tmp_path / "out.jsonl"
    monkeypatch.setattr(bulk, "answers", cluster)
    assert generate(rows, "--output", str(output)) != 0
    assert "finished rows are kept" in capsys.readouterr().err
    assert [row["id"] for row in written(output)] == [3, 4, 2]
    cluster.most = None
    generate(rows, "--output", str(output))
    assert cluster.asked == [4, 2]
    assert [(row["id"], row.get("text")) for row in written(output)] == [
        *[(0, "t2"), (1, "t2"), (2, "t1"), (3, None), (4, "t1")]
    ]
    here = ["generate", "--input", str(rows), "--reward", "art:0.5", "--max-new-tokens", "4", "--output", str(output)]
    assert main(here) != 0  # rows of one engine are not continued by another
    assert "engine: ray then" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ([], "give it a file with --output"),
        (["--output", "o", "--method", "best_of_n"], "--method decodes here"),
        (["--output", "o", "--base-min-p", "0.1"], "vLLM has no such setting"),
        (["--output", "o", "--engine", "spark"], "there is ray"),
    ],
)
def test_what_a_cluster_cannot_do_is_said_before_one_is_looked_for(
    rows: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    options: list[str],
    message: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    assert generate(rows, *options) != 0
    assert message in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "o").exists()


def test_an_address_without_an_engine_is_refused(rows: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", "hello", "--address", "auto"]) != 0
    assert "give --engine ray too" in " ".join(capsys.readouterr().err.split())
