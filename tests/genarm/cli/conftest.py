"""A way to run command lines in a folder of the test's own, against a tiny random base and two adapters on it."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from chat_families import BYTE_VOCAB, byte_tokenizer
from families import make_model, save_adapter

from genarm.cli.app import main

QUICK = ["--max-new-tokens", "6", "--seed", "3", "--batch-size", "4"]


@dataclass(slots=True)
class Outcome:
    """What a command line came to: exit status, lines on the standard error, text on the standard output."""

    status: int
    errors: list[str]
    text: str

    @property
    def line(self) -> str:
        """The only line on the standard error."""
        assert len(self.errors) == 1, self.errors
        return self.errors[0]

    def assert_refused(self, status: int, words: str) -> None:
        """One line that says what is wrong, and nothing else."""
        assert (self.status, self.text) == (status, ""), self
        assert self.line.startswith("genarm: error: ") and words in self.line


@dataclass(slots=True)
class Cli:
    """Calls `genarm`. ``models`` holds a base and two adapters on it, first and second."""

    folder: Path
    models: Path
    capsys: pytest.CaptureFixture[str]

    def __call__(self, *arguments: object) -> Outcome:
        status = main([str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        return Outcome(status, captured.err.splitlines(), captured.out)

    @property
    def guided(self) -> list[str]:
        """`genarm generate` with the tiny models."""
        rewards = [f"first={self.models / 'first'}:1.0", f"second={self.models / 'second'}:-1"]
        return ["generate", "--base", str(self.models / "base"), *(f"--reward={text}" for text in rewards), *QUICK]

    def generate(self, *arguments: object) -> Outcome:
        return self(*self.guided, *arguments)

    @property
    def output(self) -> Path:
        return self.folder / "out.jsonl"

    def rows(self, path: Path | None = None) -> dict[Any, dict[str, Any]]:
        """An output as {id: row}; two rows of one id fail the test."""
        lines = (path or self.output).read_text(encoding="utf-8").splitlines()
        rows = [json.loads(line, parse_constant=pytest.fail) for line in lines]
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["id"]: row for row in rows}

    def file(self, name: str, rows: Sequence[Any] | str | bytes) -> Path:
        """A file of the test: bytes or text as they are, other rows as JSONL."""
        path = self.folder / name
        text = rows if isinstance(rows, str | bytes) else "".join(json.dumps(row) + "\n" for row in rows)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def left(self) -> list[str]:
        """Names of the files in the folder."""
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def own_process(cli: Cli, monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[..., Outcome]]:
    """`genarm generate` with the tiny models as the process's own command, signals and standard streams included."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs begin without it

    def call(*arguments: object) -> Outcome:
        monkeypatch.setattr(sys, "argv", ["genarm", *cli.guided, *map(str, arguments)])
        status = main()
        captured = cli.capsys.readouterr()
        return Outcome(status, captured.err.splitlines(), captured.out)

    yield call
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture(scope="session")
def models(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models")
    base = make_model("llama", vocab=BYTE_VOCAB)
    base.save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    for seed, name in enumerate(("first", "second"), 1):
        save_adapter(base, "llama", folder / name, seed=seed)
    return folder


@pytest.fixture
def cli(tmp_path: Path, models: Path, capsys: pytest.CaptureFixture[str]) -> Cli:
    capsys.readouterr()
    return Cli(tmp_path, models, capsys)
