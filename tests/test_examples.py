"""The examples, run as they stand."""

from __future__ import annotations

import json
import re
import runpy
import sys
from pathlib import Path
from typing import Any

import pytest

EXAMPLES = Path(__file__).parent.parent / "examples"
SCRIPTS = sorted(path.name for path in EXAMPLES.glob("*.py"))
NOTEBOOKS = sorted(path.name for path in EXAMPLES.glob("*.ipynb"))
ARGUMENTS = {"train_reward_model.py": ["--max-steps", "4"]}
SAYS = {
    "drop_in.py": r"guided: I really enjoy .*scien",
    "guided_generation.py": r"(?s)weight 2.0:.*\bart\b",
    "score_responses.py": r"helping others .*by agreeableness: \+",
    "several_objectives.py": r"unguided: I really enjoy .*\n.*art -\d+\.\d, risk -\d",
    "train_reward_model.py": r"orders \d+\.\d% of the held-out pairs right\n",
}


def test_every_example_is_listed_and_held_to_something() -> None:
    listed = re.findall(r"\]\((\w+\.\w+)\)", (EXAMPLES / "README.md").read_text(encoding="utf-8"))
    files = {path.name for path in EXAMPLES.iterdir() if path.is_file()} - {"README.md"}
    assert set(listed) == files and set(SCRIPTS) == set(SAYS) and NOTEBOOKS


@pytest.mark.parametrize("name", SCRIPTS)
def test_a_script_runs_and_says_what_it_promises(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)  # from any folder
    monkeypatch.setattr(sys, "argv", [name, *ARGUMENTS.get(name, [])])
    runpy.run_path(str(EXAMPLES / name), run_name="__main__")
    assert re.search(SAYS[name], capsys.readouterr().out)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_from_top_to_bottom_and_is_stored_without_its_output(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((EXAMPLES / name).read_text(encoding="utf-8"))
    assert notebook["nbformat"] == 4 and all(cell["id"] for cell in notebook["cells"])
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert cells and all(cell["outputs"] == [] and cell["execution_count"] is None for cell in cells)
    names: dict[str, Any] = {"__name__": "__main__"}
    for cell in cells:
        exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    assert re.search(r"\bart\b.*\n(.*\n)+mean reward, nats per token", capsys.readouterr().out)
    assert not list(tmp_path.iterdir())
