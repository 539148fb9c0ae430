"""The bytes of an input -> its items, one per prompt: plain text, JSONL or a JSON array, plain or gzip."""

from __future__ import annotations

import gzip
import json
import sys
import zlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ..errors import RunError

STDIN = "standard input"
SUFFIXES = (".jsonl", ".ndjson", ".json")
# What an item cannot be read from, by the end of a file's name or its first bytes -> its name, and what converts it.
OTHERS = {
    ".csv": ("CSV", "import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(open(sys.argv[1]))]"),
    ".tsv": ("TSV", "import csv, json, sys; [print(json.dumps(row)) for row in csv.DictReader(open(sys.argv[1]), "
                    r"dialect='excel-tab')]"),
    ".parquet": ("Parquet", "import sys, datasets; datasets.Dataset.from_parquet(sys.argv[1]).to_json('rows.jsonl')"),
    ".arrow": ("Arrow", "import sys, datasets; datasets.Dataset.from_file(sys.argv[1]).to_json('rows.jsonl')"),
}  # fmt: skip
MAGIC = {b"PAR1": ".parquet", b"ARROW1": ".arrow"}


@dataclass(frozen=True, slots=True)
class Item:
    """One entry of an input: where it stands, counted from 1 ("line 3"), and what it holds.

    ``value`` is text from a plain file, else what the JSON says; a ValueError that continues "line 3 " where it
    says nothing.
    """

    number: int
    place: str
    value: Any


def read_bytes(path: Path) -> tuple[str, bytes]:
    """The name of an input for messages, and its content, unpacked; ``-`` is the standard input.

    Raises:
        RunError: it is missing, unreadable, broken gzip, or a table of another format.
    """
    name = STDIN if str(path) == "-" else str(path)
    try:
        data = sys.stdin.buffer.read() if name == STDIN else path.read_bytes()
    except FileNotFoundError:
        raise RunError(f"{name}: no such file: check --input") from None
    except OSError as error:
        raise RunError(f"{name}: cannot be read ({error.strerror}): name a file of prompts") from None
    if data.startswith(b"\x1f\x8b"):
        try:
            data = gzip.decompress(data)
        except (OSError, EOFError, zlib.error) as error:
            raise RunError(
                f"{name}: its gzip data is cut short or corrupt ({error}): copy or compress it again"
            ) from None
    _refuse_tables(path, name, data)
    return name, data


def read_items(path: Path, name: str, data: bytes) -> list[Item]:
    """The items of an input, blank lines of JSONL left out.

    JSON when the name ends in .jsonl, .ndjson or .json (before .gz), or when the first line that is not blank is an
    object, or the whole is an array of objects; else plain text, one prompt per line, which loses its line end alone.

    Raises:
        RunError: it is not UTF-8, or holds nothing.
    """
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise RunError(
            f"{name} line {line}: byte 0x{data[error.start]:02x} is not UTF-8: convert the file with iconv"
        ) from None
    lines = [line.removesuffix("\r") for line in text.split("\n")]
    if not lines[-1]:
        lines.pop()
    if not any(lines):
        raise RunError(f"{name} is empty: write one prompt per line, or JSONL rows with a prompt each")
    named = path.name.lower().removesuffix(".gz").endswith(SUFFIXES)
    array = _array(text, named)
    if array is not None:
        return [Item(number, f"item {number}", value) for number, value in enumerate(array, 1)]
    if not named and not _begins_with_an_object(lines):
        return [Item(number, f"line {number}", line) for number, line in enumerate(lines, 1)]
    return [Item(number, f"line {number}", _value(line)) for number, line in enumerate(lines, 1) if line.strip()]


def _refuse_tables(path: Path, name: str, data: bytes) -> None:
    suffix = next((suffix for magic, suffix in MAGIC.items() if data.startswith(magic)), None)
    suffix = suffix or Path(path.name.lower().removesuffix(".gz")).suffix
    if suffix in OTHERS:
        kind, code = OTHERS[suffix]
        into = "" if "rows.jsonl" in code else " > rows.jsonl"
        raise RunError(
            f"{name} is {kind}, and prompts are read from text, JSONL or JSON: convert it to rows.jsonl, with its "
            f'prompts in the column prompt: python -c "{code}" {name}{into}'
        )


def _array(text: str, named: bool) -> list[Any] | None:
    """A whole text that is a JSON array, over several lines or holding more than one row in its line."""
    if not text.lstrip().startswith("["):
        return None
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    if not isinstance(value, list):
        return None
    return value if value and (all(isinstance(item, dict) for item in value) or named) else None


def _begins_with_an_object(lines: list[str]) -> bool:
    return (
        isinstance(_value(next(line for line in lines if line.strip())), dict) if any(map(str.strip, lines)) else False
    )


def _value(line: str) -> Any:
    try:
        return json.loads(line)
    except json.JSONDecodeError as error:
        return ValueError(f"is not JSON ({error.msg} at column {error.colno}): write one object per line")
    except RecursionError:
        return ValueError("is nested too deeply: write rows like {'prompt': 'text'}")
    except ValueError as error:
        return ValueError(f"is not JSON ({error}): write one object per line")
