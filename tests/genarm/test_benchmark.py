"""`genarm bench`: a table, figures as JSON, a trace; errors in one line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from genarm.cli import app
from genarm.cli.bench import rotate
from genarm.embedded import BASE, REWARDS

SHORT = ["bench", "--context", "8", "--new-tokens", "3", "--rounds", "2", "--device", "cpu"]


def test_plain_and_guided_decoding_are_measured_and_written(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    figures, trace = tmp_path / "bench.json", tmp_path / "trace.json"
    rewards = ["--reward", "risk", "--reward", f"own={REWARDS['art']}", "--batch-size", "2"]
    assert app.main([*SHORT, *rewards, "--json", str(figures), "--trace", str(trace)]) == 0
    printed = capsys.readouterr().out
    assert all(word in printed for word in ("plain", "guided", "ratio", "guided by risk, own; batch 2, context 8"))
    record = json.loads(figures.read_text())
    plain, guided = record["costs"]
    assert (plain["name"], plain["ratio"], guided["name"]) == ("plain", 1.0, "guided")
    assert guided["ratio"] > 0 and guided["first_token_ms"] > 0 and guided["engine"]
    assert guided["tokens_per_second"] == pytest.approx(2e3 / guided["ms_per_token"])
    assert record["settings"]["context"] == 8 and record["versions"]["torch"]
    names = {event.get("name") for event in json.loads(trace.read_text())["traceEvents"]}
    assert {"prefill", "step"} <= names


def test_a_base_without_reward_models_is_measured_alone(capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main([*SHORT, "--base", str(BASE)]) == 0
    printed = capsys.readouterr().out
    assert "plain" in printed and "guided" not in printed


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--new-tokens", "1"], "--new-tokens"),
        (["--context", "100000"], "4096"),
        (["--reward", "nonsense"], "names no embedded reward model"),
        (["--json", "no/such/folder/bench.json"], "No such file"),
    ],
)
def test_what_cannot_be_measured_is_one_line(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert app.main([*SHORT, *arguments]) in (1, 2)
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and words in captured.err


def test_each_round_starts_with_another_contender() -> None:
    order: list[str] = []
    found = rotate({name: lambda name=name: order.append(name) or len(order) for name in "abc"}, 4)
    assert "".join(order) == "abcbcacababc"
    assert [sorted(turn) for turn in found] == [["a", "b", "c"]] * 4 and found[1] == {"b": 4, "c": 5, "a": 6}


def test_help_imports_no_torch() -> None:
    code = "import sys; from genarm.cli import app; app.main(['bench', '--help']); sys.exit('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and "--trace" in done.stdout
