"""`genarm play`: what it says before there is a page."""

from __future__ import annotations

from importlib.machinery import ModuleSpec
from typing import Any

import pytest
from guided_server import KEY, GuidedServer

from genarm.cli import app, play_page, play_served
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
    monkeypatch.setattr(play_page, "find_spec", lambda name: ModuleSpec(name, None) if installed else None)
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
    models, settings, where, opens = seen
    assert settings["base_min_p"] == base_min_p and list(models.rewards) == rewards
    assert (where, opens) == (("127.0.0.1", None), False)


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["--base", "x"], "--base is about models here, and --server has its own"),
        (["--no-check-vocabulary"], "--no-check-vocabulary is about models here"),
        (
            ["--reward", "kindness:1"],
            "--reward kindness:1: with --server write NAME:WEIGHT, of the server's reward models art",
        ),
        (["--reward", "art:much"], "'much' is no weight"),
        (["--reward", "art:nan"], "'nan' is no weight"),
        (["--beta", "9"], "--beta is 9"),
        (["--api-key", "wrong"], "another API key"),
    ],
)
def test_what_a_server_cannot_be_asked_for_is_said_in_one_line(
    arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(play_page, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setenv("GENARM_API_KEY", KEY)
    with GuidedServer(lambda body: (200, {})).running() as server:
        assert app.main(["play", "--server", server.address, *arguments]) in (1, 2)
    error = capsys.readouterr().err
    assert said in error and error.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "weights", "beta"),
    [
        ([], {"art": 1.0, "risk": 0.5}, 0.5),
        (["--reward", "risk:2", "--beta", "1"], {"art": 0.0, "risk": 2.0}, 1.0),
        (["--reward", "risk"], {"art": 0.0, "risk": 1.0}, 0.5),
    ],
)
def test_a_page_over_a_server_begins_with_its_weights_or_those_that_are_named(
    arguments: list[str], weights: dict[str, float], beta: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []
    monkeypatch.setattr(play_page, "find_spec", lambda name: ModuleSpec(name, None))
    monkeypatch.setattr(play_served, "show", lambda *given: seen.extend(given) or 0)
    with GuidedServer(lambda body: (400, {})).running() as server:
        assert app.main(["play", "--server", server.address, "--api-key", KEY, "--seed", "4", *arguments]) == 0
    writer, examples, longest, where, opens = seen
    assert (writer.defaults.weights, writer.defaults.beta, writer.defaults.seed) == (weights, beta, 4)
    assert writer.names == ("art", "risk") and not writer.has_chat_template and not writer.has_base_min_p
    assert (examples, longest, where, opens) == ([], 64, ("127.0.0.1", None), False)
