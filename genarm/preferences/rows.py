"""Rows of a data set as dictionaries: JSON lines, JSON, Parquet, a saved `datasets` folder, or a data set by name."""

from __future__ import annotations

import gzip
import hashlib
import json
import re
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError

Rows = list[dict[str, Any]]

DATASET_NAME = re.compile(r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?::(?P<split>[^:/]+(?:\[.*\])?))?")


def read_rows(path: str | Path) -> Rows:
    """The rows of a data set, in order.

    By the name's ending (before .gz): .parquet; .json, one list of objects; else JSON lines, empty lines skipped. A
    folder is one that `datasets.save_to_disk` wrote. What is neither file nor folder is the name of a data set on the
    hub, which `datasets` loads without running any code of it (offline under HF_HUB_OFFLINE). The last two take a split
    after a colon ("name:test", "name:train[:100]"); without one it is "train".

    Raises:
        InvalidArgumentError: no such data, a row that is no JSON object, or a package of the extra `train` missing.
    """
    source = Path(path)
    if source.is_file():
        return _checked(_file_reader(source)(source), source)
    folder, split = (source, None) if source.is_dir() else _split_off(str(path))
    if folder is not None and folder.is_dir():
        return _saved_rows(folder, split)
    return _named_rows(str(path))


def content_hash(path: str | Path | Sequence[str | Path]) -> str:
    """SHA-256 of the rows as canonical JSON, in hexadecimal: the same for one content plain, gzipped or as a list.

    Of several data sets, that of all their rows one after the other.
    """
    digest = hashlib.sha256()
    for each in [path] if isinstance(path, str | Path) else path:
        for row in read_rows(each):
            digest.update(json.dumps(row, sort_keys=True, separators=(",", ":"), default=str).encode())
            digest.update(b"\n")
    return digest.hexdigest()


def _file_reader(path: Path) -> Callable[[Path], list[Any]]:
    name = path.name.lower().removesuffix(".gz")
    if name.endswith(".parquet"):
        return _parquet
    return _json_list if name.endswith(".json") else _json_lines


def _checked(rows: list[Any], path: Path) -> Rows:
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InvalidArgumentError(
                f"{path}, row {number}: a {type(row).__name__}, not an object: write rows like "
                '{"prompt": "text", "chosen": "text", "rejected": "text"}'
            )
    return rows


def _text(path: Path) -> str:
    data = path.read_bytes()
    try:
        return (gzip.decompress(data) if data.startswith(b"\x1f\x8b") else data).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise InvalidArgumentError(f"{path}: not UTF-8 ({error}): convert the file with iconv") from None
    except (OSError, EOFError, zlib.error) as error:
        raise InvalidArgumentError(f"{path}: its gzip data is cut short or corrupt ({error}): copy it again") from None


def _json_lines(path: Path) -> list[Any]:
    rows = []
    for number, line in enumerate(_text(path).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError(
                f"{path}, line {number}: not JSON ({error}): write one object per line"
            ) from None
    return rows


def _json_list(path: Path) -> list[Any]:
    text = _text(path)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):
            return _json_lines(path)  # JSON lines under the name .json are common
        raise InvalidArgumentError(f"{path}: not JSON ({error}): write one list of objects") from None
    if isinstance(rows, list):
        return rows
    if isinstance(rows, dict) and len(text.strip().splitlines()) == 1:
        return [rows]
    raise InvalidArgumentError(f"{path}: holds a {type(rows).__name__}: write one list of objects, or JSON lines")


def _parquet(path: Path) -> list[Any]:
    try:
        from pyarrow import ArrowException, parquet
    except ImportError as error:
        raise _missing(f"{path} is Parquet, which needs pyarrow", error) from error
    try:
        rows: list[Any] = parquet.read_table(path).to_pylist()
    except (ArrowException, OSError) as error:
        raise InvalidArgumentError(f"{path}: cannot be read as Parquet ({error}): write the file again") from error
    return rows


def _split_off(text: str) -> tuple[Path | None, str | None]:
    """`folder:split` in two; a split may hold a colon of its own, in brackets."""
    found = re.fullmatch(r"(?P<folder>.+?):(?P<split>[^:/\[]+(?:\[.*\])?)", text)
    return (Path(found["folder"]), found["split"]) if found else (None, None)


def _saved_rows(folder: Path, split: str | None) -> Rows:
    if not any((folder / name).is_file() for name in ("state.json", "dataset_dict.json")):
        raise InvalidArgumentError(f"{folder} is a folder that datasets.save_to_disk did not write: name a file in it")
    try:
        from datasets import DatasetDict, load_from_disk
    except ImportError as error:
        raise _missing(f"{folder} is a saved data set, which needs datasets", error) from error
    loaded = load_from_disk(str(folder))
    if isinstance(loaded, DatasetDict):
        if (split or "train") not in loaded:
            splits = ", ".join(loaded)
            raise InvalidArgumentError(
                f"{folder} has no split {split or 'train'!r}: name one of {splits} as {folder}:…"
            )
        loaded = loaded[split or "train"]
    elif split is not None:
        raise InvalidArgumentError(f"{folder} has no splits: leave out :{split}")
    rows: Rows = loaded.to_list()
    return rows


def _named_rows(name: str) -> Rows:
    found = DATASET_NAME.fullmatch(name)
    if found is None or re.search(r"\.(jsonl?|parquet|csv|txt|gz)$", name):
        raise InvalidArgumentError(f"{name}: no such file: check the path")
    try:
        from datasets import load_dataset
    except ImportError as error:
        raise _missing(f"there is no file {name}; a data set of that name needs datasets", error) from error
    try:
        rows: Rows = load_dataset(found["name"], split=found["split"] or "train").to_list()
    except Exception as error:  # hub, network and builders raise what they like
        raise InvalidArgumentError(
            f"there is no file {name}, and no data set of that name could be loaded ({error}): check the path or name"
        ) from error
    return rows


def _missing(what: str, error: ImportError) -> InvalidArgumentError:
    return InvalidArgumentError(f"{what} ({error}): pip install 'genarm[train]'")
