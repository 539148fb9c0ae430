"""`genarm play`: what it says before there is a page."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from typing import Any

import pytest

from genarm.cli import app
from genarm.cli import play as command


@pytest.mark.parametrize(
    ("arguments", "installed", "status", "said"),
    [
        ([], False, 1, "pip install 'genarm[play]'"),
        (["--base", "x"], True, 2, "give the page one with --reward"),
        (["--beta", "9"], True, 2, "--beta is 9: the page's control goes from 0.1 to 4"),
        (["--max-new-tokens", "5000"], True, 2, "--max-new-tokens is 5000"),
        (["--seed", "-1"], True, 2, "--seed is -1"),
        (["--reward", "kindness:1"], True, 2, "no embedded reward model"),
    ],
)
def test_what_is_wrong_is_said_in_one_line(
    arguments: list[str],
    installed: bool,
    status: int,
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(command, "find_spec", lambda name: ModuleSpec(name, None) if installed else None)
    assert app.main(["play", *arguments]) == status
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "base_min_p", "rewards"),
    [
        ([], 0.02, ["art:1", "science:0", "agreeableness:0", "risk:0"]),
        (["--base", "x", "--reward", "r=y:2"], 0.0, ["r=y:2"]),
        (["--reward", "risk:2", "--base-min-p", "0.1"], 0.1, ["risk:2"]),
    ],
)
def test_models_of_ones_own_are_drawn_from_without_a_filter(
    arguments: list[str], base_min_p: float, rewards: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(command, "run", lambda *given: seen.extend(given) or 0)
    assert app.main(["play", *arguments]) == 0
    models, settings, host, port, opens = seen
    assert settings["base_min_p"] == base_min_p and list(models.rewards) == rewards
    assert (host, port, opens) == ("127.0.0.1", None, False)
