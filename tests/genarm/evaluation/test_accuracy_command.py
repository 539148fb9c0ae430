"""`genarm evaluate accuracy` from a command line to a table, JSON and a picture; errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genarm.cli import app
from genarm.embedded import REWARDS

ACCURACY = ["evaluate", "accuracy", "--device", "cpu"]


def test_a_table_json_and_a_picture_come_of_pairs_and_scorers(
    pairs_file: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    figures, plot = tmp_path / "out.json", tmp_path / "out.png"
    rest = tmp_path / "rest.jsonl"
    rest.write_bytes(pairs_file.read_bytes())
    named = ["--data", f"own={pairs_file}", "--data", str(rest)]
    scorers = ["--reward", "art", "--dpo", f"policy={REWARDS['art']}"]
    outputs = ["--json", str(figures), "--plot", str(plot), "--by", "kind"]
    assert app.main([*ACCURACY, *named, *scorers, *outputs]) == 0
    printed = capsys.readouterr()
    assert max(map(len, printed.out.splitlines())) <= 80
    words = ("own: 5 pairs; intervals over 3 clusters", "rest: 5 pairs", "art, per token", "base alone", "longer wins")
    assert all(text in printed.out for text in words)
    assert "art: 10 pairs scored" in printed.err
    assert plot.read_bytes().startswith(b"\x89PNG")

    record = json.loads(figures.read_text(encoding="utf-8"))
    assert record["settings"]["max_length"] == 4096 and record["versions"]["torch"]
    own, other = record["data"]
    assert own["scorers"] == other["scorers"] and own["pairs"] == 5 and own["clusters"] == 3
    rows = {(row["name"], row["reduction"]): row for row in own["scorers"]}
    assert list(rows) == [(name, how) for name in ("art", "policy", "base") for how in ("sum", "mean")]
    assert rows["policy", "sum"]["beta"] == 1.0
    for row in rows.values():
        assert 0 <= row["accuracy"]["low"] <= row["accuracy"]["value"] <= row["accuracy"]["high"] <= 1
        assert sum(bucket["pairs"] for bucket in row["length_buckets"]) == 5
        assert [(part["name"], part["pairs"]) for part in row["by"]] == [("other", 1), ("stance", 2), ("topic", 2)]
    assert rows["art", "sum"]["accuracy"]["value"] >= 0.8
    assert [found["less"] for found in own["differences"]] == ["policy", "base"]
    assert own["truncation"]["pairs_dropped"] == 0


def test_where_and_limit_choose_pairs_and_the_base_is_scored_alone(
    pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    data = ["--data", str(pairs_file), "--where", "kind=topic", "--limit", "1", "--cluster", "none"]
    assert app.main([*ACCURACY, *data]) == 0
    printed = capsys.readouterr().out
    assert "few: 1 pairs" in printed and "differences" not in printed and "base alone" in printed


def test_pairs_that_a_length_drops_are_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    long = "I like art and music and painting and reading and physics and "
    rows = [{"chosen": long + "sports", "rejected": long + "games", "prompt": ""}]
    rows.append({"chosen": "I paint", "rejected": "I run", "prompt": ""})
    path = tmp_path / "long.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    assert app.main([*ACCURACY, "--data", str(path), "--max-length", "8"]) == 0
    printed = capsys.readouterr().out
    assert "long: 1 pairs" in printed and "1 pair dropped" in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "--data"),
        (["--data", "no/such.jsonl"], "no such file"),
        (["--data", "FILE", "--reward", "nonsense"], "names no embedded reward model"),
        (["--data", "FILE", "--reward", "a=/no/such/folder"], "no such folder"),
        (["--data", "FILE", "--trajectory-rm", "judge"], "write NAME=PATH"),
        (["--data", "FILE", "--dpo", "=x"], "write NAME=PATH"),
        (["--data", "FILE", "--base", "/no/such/folder"], "no such folder"),
        (["--data", "FILE", "--where", "kind"], "COLUMN=VALUE"),
        (["--data", "FILE", "--where", "kind=none"], "kind is one of"),
        (["--data", "FILE", "--by", "sort"], "no column 'sort'"),
        (["--data", "FILE", "--max-length", "5000"], "4096 positions"),
        (["--data", "FILE", "--plot", "figure.nonsense"], ".png"),
        (["--data", "FILE", "--device", "tpu"], "device"),
    ],
)
def test_what_cannot_be_evaluated_is_one_line_and_status_2(
    arguments: list[str], words: str, pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([*ACCURACY, *(str(pairs_file) if text == "FILE" else text for text in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err


def test_a_place_that_cannot_be_written_shows_before_anything_is_scored(
    pairs_file: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([*ACCURACY, "--data", str(pairs_file), "--json", "no/such/folder/out.json"]) == 1
    assert "scored" not in capsys.readouterr().err


def test_the_group_alone_shows_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(["evaluate"]) == 0
    printed = capsys.readouterr()
    assert "accuracy" in printed.out and "rewards" in printed.out and printed.err == ""


def test_help_imports_no_torch() -> None:
    code = "import sys; from genarm.cli import app; app.main(['evaluate', 'accuracy', '--help']); "
    done = subprocess.run(
        [sys.executable, "-c", code + "sys.exit('torch' in sys.modules)"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "--trajectory-rm" in done.stdout
