"""The README's examples, run as they stand."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from genarm import cli
from genarm.embedded import BASE, REWARDS

README = (Path(__file__).parent.parent / "README.md").read_text(encoding="utf-8")
PYTHON = re.findall(r"```python\n(.*?)```", README, flags=re.S)
COMMANDS = [
    line
    for block in re.findall(r"```bash\n(.*?)```", README, flags=re.S)
    for line in block.splitlines()
    if line.startswith("genarm ")
]


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
    assert cli.main(shlex.split(command)[1:]) == 0
    if "--output" in command:
        assert len((tmp_path / "out.jsonl").read_text().splitlines()) == 2
