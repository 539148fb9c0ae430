"""A tiny random base with a byte-level tokenizer, adapters on it, and a way to run command lines against them."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, save_adapter
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from genarm.cli.app import main

SPECIAL = ("<pad>", "<bos>", "<eos>")
VOCAB = len(SPECIAL) + 256
TEMPLATE = (
    "{{ bos_token }}{% for message in messages %}[{{ message.role }}]{{ message.content }}{% endfor %}"
    "{% if add_generation_prompt %}[assistant]{% endif %}"
)


def byte_tokenizer() -> PreTrainedTokenizerFast:
    """One token a byte, after a BOS that the tokenizer adds itself."""
    tokens = [*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet())]
    inner = Tokenizer(models.BPE(vocab={token: index for index, token in enumerate(tokens)}, merges=[]))
    inner.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    inner.decoder = decoders.ByteLevel()
    inner.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=inner, pad_token="<pad>", bos_token="<bos>", eos_token="<eos>", chat_template=TEMPLATE
    )


@dataclass(frozen=True, slots=True)
class Models:
    """Folders of the tiny base and of two adapters on it."""

    base: Path
    first: Path
    second: Path

    @property
    def arguments(self) -> list[str]:
        return ["--base", str(self.base), "--reward", f"first={self.first}:1.0", "--reward", f"second={self.second}:-1"]


@pytest.fixture(autouse=True, scope="session")
def one_thread() -> None:
    """Models this small only wait for each other on more."""
    torch.set_num_threads(1)


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Models:
    folder = tmp_path_factory.mktemp("models")
    base = make_model("llama", vocab=VOCAB)
    base.save_pretrained(folder / "base")
    byte_tokenizer().save_pretrained(folder / "base")
    first = save_adapter(base, "llama", folder / "first", seed=1)
    return Models(folder / "base", first, save_adapter(base, "llama", folder / "second", seed=2))


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


@dataclass(slots=True)
class Bench:
    """Runs `genarm generate` with the tiny models in a folder of the test's own."""

    folder: Path
    models: Models
    capsys: pytest.CaptureFixture[str]
    defaults: list[str] = field(default_factory=lambda: ["--max-new-tokens", "6", "--seed", "3", "--batch-size", "4"])

    def call(self, *arguments: object) -> Outcome:
        status = main([str(argument) for argument in arguments])
        captured = self.capsys.readouterr()
        return Outcome(status, captured.err.splitlines(), captured.out)

    def generate(self, *arguments: object) -> Outcome:
        return self.call("generate", *self.models.arguments, *self.defaults, *arguments)

    def file(self, name: str, rows: Sequence[Any] | str | bytes) -> Path:
        """A file of the test: bytes or text as they are, other rows as JSONL."""
        path = self.folder / name
        if isinstance(rows, bytes):
            path.write_bytes(rows)
        else:
            text = rows if isinstance(rows, str) else "".join(json.dumps(row) + "\n" for row in rows)
            path.write_text(text, encoding="utf-8")
        return path

    def left(self) -> list[str]:
        """Names of the files in the folder."""
        return sorted(path.name for path in self.folder.iterdir())


@pytest.fixture
def bench(tmp_path: Path, small: Models, capsys: pytest.CaptureFixture[str]) -> Bench:
    capsys.readouterr()
    return Bench(tmp_path, small, capsys)


@pytest.fixture
def read_rows() -> Callable[[Path], dict[Any, dict[str, Any]]]:
    """Reads an output into {id: row}; two rows of one id fail the test."""

    def read(path: Path) -> dict[Any, dict[str, Any]]:
        rows = [json.loads(line, parse_constant=pytest.fail) for line in path.read_text(encoding="utf-8").splitlines()]
        assert len({row["id"] for row in rows}) == len(rows)
        return {row["id"]: row for row in rows}

    return read
