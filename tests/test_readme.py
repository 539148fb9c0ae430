"""The README's blocks, run as they stand from top to bottom, in a folder that holds what a checkout holds."""

from __future__ import annotations

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from genarm.cli import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```(\w*)\n(.*?)^```", README, flags=re.S | re.M)
PYTHON = [text for kind, text in BLOCKS if kind == "python"]
INSTALL, *SHELL = [text for kind, text in BLOCKS if kind == "bash"]


def commands(block: str) -> list[list[str]]:
    """The words of each command of a block, comments left out as a shell leaves them out."""
    lines = (shlex.split(line, comments=True) for line in block.replace("\\\n", " ").splitlines())
    return [words for words in lines if words]


def test_the_readme_is_short_and_every_block_is_run_or_a_result() -> None:
    assert len(README.splitlines()) <= 100
    assert len(PYTHON) >= 2 and len(SHELL) >= 2
    assert {kind for kind, _ in BLOCKS} <= {"bash", "python", "text"}
    for block in SHELL:
        subprocess.run(["bash", "-n"], input=block, text=True, check=True)
        # Each line is one call of genarm, so that running these calls is running the block.
        assert all(words[0] == "genarm" and not set("|><&;`$*") & set("".join(words)) for words in commands(block))


def test_the_ways_to_install_are_run_by_ci() -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    makes = [" ".join(words) for words in commands(INSTALL) if words[0] == "make"]
    assert makes and all(make in ci for make in makes)


@pytest.mark.parametrize("code", PYTHON, ids=[f"python_{index}" for index in range(len(PYTHON))])
def test_each_python_example_runs_and_prints_a_text(code: str, capsys: pytest.CaptureFixture[str]) -> None:
    exec(compile(code, "README.md", "exec"), {"__name__": "__main__"})
    assert len(capsys.readouterr().out.strip()) > len("I really enjoy")


def test_the_commands_run_from_top_to_bottom_and_leave_a_reward_model_that_guides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], loud: None
) -> None:
    (tmp_path / "examples").symlink_to(ROOT / "examples")  # what the commands read
    monkeypatch.chdir(tmp_path)
    done = [words for block in SHELL for words in commands(block)]
    for words in done:
        kept = ["--json", "accuracy.json"] if words[1] == "evaluate" else []  # beside what it prints
        assert app.main([*words[1:], *kept]) == 0, shlex.join(words)
    generate = next(words[1:] for words in done if words[1] == "generate" and "mine=my-reward" in " ".join(words))
    scorers = json.loads(Path("accuracy.json").read_text(encoding="utf-8"))["data"][0]["scorers"]
    accuracy = {scorer["name"]: scorer["accuracy"]["value"] for scorer in scorers if scorer["reduction"] == "sum"}
    assert accuracy["mine"] > 0.85 > 0.6 > accuracy["base"]
    prompts = ["--prompt", "I often think about"] * 16
    found = {}
    for weight in (0.0, 2.0):
        capsys.readouterr()
        assert app.main([*(re.sub(r":[\d.]+$", f":{weight}", word) for word in generate), *prompts]) == 0
        found[weight] = capsys.readouterr().out.count("music")
    assert found[2.0] >= 6 > 2 >= found[0.0]


def test_the_command_on_the_path_is_this_one() -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    found = subprocess.run(
        ["bash", "-c", "genarm --version"],
        env={**os.environ, "PATH": path},
        capture_output=True,
        text=True,
        check=True,
    )
    assert re.search(r"\d+\.\d+\.\d+", found.stdout)
