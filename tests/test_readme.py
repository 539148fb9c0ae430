"""The README's examples, run as they stand."""

from __future__ import annotations

import json
import random
import re
import shlex
from pathlib import Path

import pytest

from genarm.cli import app
from genarm.embedded import BASE, REWARDS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)
BLOCKS = [
    [line for line in block.splitlines() if line.startswith("genarm ")]
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.S)
]
# A block that trains is read from top to bottom; every other command stands alone.
TRAINING = next(block for block in BLOCKS if any(line.startswith("genarm train ") for line in block))
COMMANDS = [line for block in BLOCKS if block is not TRAINING for line in block]


def test_the_readme_has_examples() -> None:
    assert len(PYTHON) >= 2
    assert len(COMMANDS) >= 4


@pytest.mark.parametrize("code", PYTHON, ids=[f"python_{index}" for index in range(len(PYTHON))])
def test_each_python_example_runs_and_prints_a_text(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {})
    assert len(capsys.readouterr().out.strip()) > len("I really enjoy")


@pytest.mark.parametrize("command", COMMANDS)
def test_each_command_runs(command: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "I enjoy"}\n{"id": "b", "prompt": "My"}\n')
    monkeypatch.chdir(tmp_path)
    command = command.replace("path/to/base", str(BASE)).replace("path/to/adapter", str(REWARDS["art"]))
    assert app.main(shlex.split(command)[1:]) == 0
    if "--output" in command:
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2


def write_pairs(path: Path, count: int, seed: int) -> None:
    """Statements about cats are preferred to the same about other things."""
    draw = random.Random(seed)
    starts = ("I love", "I often think about", "My friends and I talk about", "I would rather read about", "I enjoy")
    ends = ("", " in the morning", " when I am at home", " more than anything", " with my family", " every day")
    others = ("cars", "money", "sports", "computers", "history", "the weather")
    rows = []
    for _ in range(count):
        start, end = draw.choice(starts), draw.choice(ends)
        rows.append({"prompt": "", "chosen": f"{start} cats{end}", "rejected": f"{start} {draw.choice(others)}{end}"})
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def test_three_commands_lead_from_pairs_to_guided_text(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert len(TRAINING) == 3
    write_pairs(tmp_path / "pairs.jsonl", 240, seed=0)
    write_pairs(tmp_path / "held-out.jsonl", 60, seed=1)
    monkeypatch.chdir(tmp_path)
    train, evaluate, generate = (shlex.split(command)[1:] for command in TRAINING)
    assert app.main(train) == 0
    assert app.main([*evaluate, "--json", "accuracy.json"]) == 0
    scorers = json.loads((tmp_path / "accuracy.json").read_text(encoding="utf-8"))["data"][0]["scorers"]
    accuracy = {scorer["name"]: scorer["accuracy"]["value"] for scorer in scorers if scorer["reduction"] == "sum"}
    assert accuracy["mine"] > 0.9 > 0.6 > accuracy["base"]
    assert app.main(generate) == 0
    prompts = ["--prompt", "I often think about"] * 16
    cats = {}
    for weight in (0.0, 2.0):
        capsys.readouterr()
        assert app.main([*(word.replace(":1.0", f":{weight}") for word in generate), *prompts]) == 0
        cats[weight] = capsys.readouterr().out.count("cat")
    assert cats[2.0] >= 6 > 2 >= cats[0.0]
