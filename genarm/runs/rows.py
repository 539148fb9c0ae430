"""The input of a run: plain text or JSONL, plain or gzip, read into rows, and into complaints about other lines.

Prompts become token ids, and new tokens text, by the base model's tokenizer.
"""

from __future__ import annotations

import gzip
import hashlib
import json
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError, RunError
from ..request.text import PromptEncoder

RowId = str | int


@dataclass(frozen=True, slots=True)
class Row:
    """One prompt. ``index`` is its line's number counted from 0, which picks its seed; ``weights`` are as given."""

    index: int
    id: RowId
    prompt: str
    weights: Any = None


@dataclass(frozen=True, slots=True)
class RunInput:
    """All prompts of a run. ``problems`` says what is wrong with each line that holds no usable row; ``digest`` is
    "sha256:…" of the content, unpacked."""

    name: str
    rows: list[Row]
    problems: list[str]
    digest: str


def read_input(path: Path) -> RunInput:
    """Read a file of prompts.

    JSONL when the name ends in .jsonl or .json (before .gz), or when the first line that is not blank is a JSON object;
    else plain text, one prompt per line. A blank line is nothing in JSONL and an empty prompt in plain text, where a
    line loses its line end alone. ``id`` defaults to the line's number; keys other than id, prompt and weights are
    ignored. Lines that hold no row, or repeat an id, are left out and listed in ``problems``.

    Raises:
        RunError: the file is missing, unreadable, not UTF-8, broken gzip, or holds nothing.
    """
    data = _content(path)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RunError(
            f"{path} line {line}: byte 0x{data[error.start]:02x} is not UTF-8: convert the file with iconv"
        ) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()
    if not any(lines):
        raise RunError(f"{path} is empty: write one prompt per line, or JSONL rows with a prompt each")
    digest = f"sha256:{hashlib.sha256(data).hexdigest()}"
    if not _is_jsonl(path, lines):
        return RunInput(str(path), [Row(index, index + 1, line) for index, line in enumerate(lines)], [], digest)
    rows, problems = _json_rows(str(path), lines)
    return RunInput(str(path), rows, problems, digest)


def prompt_rows(prompts: Sequence[str]) -> RunInput:
    """The rows of prompts given on the command line, numbered from 1."""
    for prompt in prompts:
        try:
            prompt.encode()
        except UnicodeEncodeError:
            raise InvalidArgumentError(f"--prompt {prompt!r} is not UTF-8: pass text") from None
    digest = f"sha256:{hashlib.sha256(json.dumps(list(prompts)).encode()).hexdigest()}"
    return RunInput("--prompt", [Row(index, index + 1, prompt) for index, prompt in enumerate(prompts)], [], digest)


def _content(path: Path) -> bytes:
    """The bytes of a file, unpacked if they are gzip."""
    try:
        data = path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{path}: no such file: check --input") from None
    except OSError as error:
        raise RunError(f"{path}: cannot be read ({error.strerror}): name a file of prompts") from None
    if not data.startswith(b"\x1f\x8b"):
        return data
    try:
        return gzip.decompress(data)
    except (OSError, EOFError, zlib.error) as error:
        raise RunError(f"{path}: its gzip data is cut short or corrupt ({error}): copy or compress it again") from None


def _is_jsonl(path: Path, lines: list[str]) -> bool:
    if path.name.lower().removesuffix(".gz").endswith((".jsonl", ".json")):
        return True
    first = next((line for line in lines if line.strip()), "")
    try:
        return isinstance(json.loads(first), dict)
    except (ValueError, RecursionError):
        return False


def _json_rows(name: str, lines: list[str]) -> tuple[list[Row], list[str]]:
    rows: list[Row] = []
    problems: list[str] = []
    seen: dict[RowId, int] = {}
    for index, line in enumerate(lines):
        if not line.strip():
            continue
        try:
            row = _json_row(index, line)
            if row.id in seen:
                raise ValueError(f"has the id {row.id!r} of line {seen[row.id]}: give every row an id of its own")
        except ValueError as error:
            problems.append(f"{name} line {index + 1} {error} (the line is left out)")
            continue
        seen[row.id] = index + 1
        rows.append(row)
    return rows, problems


def _json_row(index: int, line: str) -> Row:
    """One line as a row, or a ValueError whose text continues "line N "."""
    value = _json_value(line)
    if not isinstance(value, dict):
        raise ValueError(f"is {_kind(value)}, not an object: write rows like {{'prompt': 'text'}}")
    prompt, row_id = value.get("prompt"), value.get("id")
    if not isinstance(prompt, str):
        has = "no prompt" if "prompt" not in value else f"a prompt that is {_kind(prompt)}"
        raise ValueError(f"has {has}: give every row a prompt in text")
    if row_id is None:
        row_id = index + 1
    if isinstance(row_id, bool) or not isinstance(row_id, str | int):
        raise ValueError(f"has an id that is {_kind(row_id)}: ids are text or integers")
    try:
        f"{prompt}{row_id}".encode()
    except UnicodeEncodeError:
        raise ValueError("holds half of a surrogate pair, which is no text: repair its \\u escapes") from None
    return Row(index, row_id, prompt, value.get("weights"))


def _json_value(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        raise ValueError(f"is not JSON ({error.msg} at column {error.colno}): write one object per line") from None
    except RecursionError:
        raise ValueError("is nested too deeply: write rows like {'prompt': 'text'}") from None
    except ValueError as error:
        raise ValueError(f"is not JSON ({error}): write one object per line") from None


def _kind(value: object) -> str:
    names = {dict: "an object", list: "a list", str: "text", bool: "true or false", int: "a number", float: "a number"}
    return names.get(type(value), "null")


def encode(tokenizer: Any, prompts: Sequence[str], chat: bool) -> list[list[int]]:
    """The ids of each prompt in text, or under ``chat`` as one user turn in the tokenizer's chat template.

    Raises:
        InvalidArgumentError: there is no tokenizer, or no chat template, or the template refuses a single user turn.
    """
    if tokenizer is None:
        raise InvalidArgumentError("the base model has no tokenizer beside it: put its tokenizer.json into the folder")
    if not prompts:
        return []
    encoder = PromptEncoder(tokenizer)
    if not chat:
        return [encoder.text(prompt) for prompt in prompts]
    if not getattr(tokenizer, "chat_template", None):
        raise InvalidArgumentError(
            "--chat: the base model's tokenizer has no chat template: leave --chat out, or put a chat_template.jinja "
            "into its folder"
        )
    try:
        return [encoder.chat([{"role": "user", "content": prompt}]) for prompt in prompts]
    except InvalidArgumentError as error:
        raise InvalidArgumentError(f"--chat: {error}") from error
