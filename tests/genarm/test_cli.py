"""The command line itself: help, usage errors in one line, warnings in one line, exit statuses."""

from __future__ import annotations

import warnings
from pathlib import Path
from typing import Any

import pytest

from genarm.cli import app, generate
from genarm.errors import InvalidArgumentError, RunError


def test_help_names_every_command_and_option(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments in ([], ["--help"]):
        assert app.main(arguments) == 0
        text = capsys.readouterr().out
        assert "generate" in text and "info" in text
    assert app.main(["generate", "--help"]) == 0
    text = capsys.readouterr().out
    for option in ("--base", "--reward", "--prompt", "--input", "--output", "--no-chat", "--overwrite", "--min-p"):
        assert option in text


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["nonsense"], "nonsense"),
        (["generate", "--top-k", "few"], "--top-k"),
        (["generate", "--batch-size", "0"], "--batch-size"),
        (["generate", "--sharp"], "--sharp"),
        (["generate", "--prompt"], "--prompt"),
    ],
)
def test_a_usage_error_is_one_line(arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert app.main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1
    assert captured.err.startswith("genarm: error: ") and words in captured.err


@pytest.fixture
def options(monkeypatch: pytest.MonkeyPatch) -> list[generate.Options]:
    """The options of every run, which is not made."""
    seen: list[generate.Options] = []
    monkeypatch.setattr(generate, "generate", lambda given: seen.append(given) or 0)
    return seen


def test_every_option_arrives(options: list[generate.Options]) -> None:
    text = "--base b --reward a=b:1 --reward c --prompt p --prompt q --max-new-tokens 7 --temperature 0.5 --top-k 3"
    text += " --top-p 0.9 --min-p 0.1 --seed 4 --batch-size 2 --max-length 99 --dtype float16 --device cpu --chat"
    text += " --overwrite --trust-remote-code --beta 2 --base-weight 0.5 --output o"
    assert app.main(["generate", *text.split()]) == 0
    decoding = {"beta": 2.0, "base_weight": 0.5, "max_new_tokens": 7}
    decoding |= {"temperature": 0.5, "top_k": 3, "top_p": 0.9, "min_p": 0.1}
    assert options == [
        generate.Options(
            base="b",
            rewards=["a=b:1", "c"],
            prompts=["p", "q"],
            output=Path("o"),
            decoding=decoding,
            seed=4,
            batch_size=2,
            max_length=99,
            dtype="float16",
            device="cpu",
            chat=True,
            overwrite=True,
            trust_remote_code=True,
        )
    ]


def test_the_defaults_are_the_plain_distribution_and_no_remote_code(options: list[generate.Options]) -> None:
    assert app.main(["generate"]) == 0
    assert options[0].decoding["temperature"] == options[0].decoding["top_p"] == options[0].decoding["beta"] == 1.0
    assert options[0].decoding["top_k"] == options[0].decoding["min_p"] == 0
    assert not options[0].trust_remote_code and not options[0].chat and options[0].base is None


@pytest.mark.parametrize(
    ("error", "status", "line"),
    [
        (RunError("no\nroom"), 1, "genarm: error: no room"),
        (InvalidArgumentError("what?"), 2, "genarm: error: what?"),
        (KeyboardInterrupt(), 130, ""),
    ],
)
def test_an_error_is_one_line_and_a_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: BaseException, status: int, line: str
) -> None:
    def fail(_: Any) -> int:
        raise error

    monkeypatch.setattr(generate, "generate", fail)
    assert app.main(["generate", "--prompt", "a"]) == status
    assert capsys.readouterr().err.rstrip("\n") == line


def test_a_warning_is_one_line(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(generate, "generate", lambda _: warnings.warn("mind\nthe gap", stacklevel=1))
    assert app.main(["generate", "--prompt", "a"]) == 0
    assert capsys.readouterr().err == "genarm: warning: mind the gap\n"
