"""Rows of a data set as dictionaries: a file, several by a pattern, a folder, or a data set by name."""

from __future__ import annotations

import glob
import hashlib
import json
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from .containers import ENDINGS, READERS, file_rows, needed, without_nulls

Rows = list[dict[str, Any]]

# owner/name, a folder of it, a configuration and a split: owner/name/folder:configuration:split
DATASET_NAME = re.compile(
    r"(?P<name>[\w.-]+(?:/[\w.-]+)?)(?P<folder>(?:/[\w.-]+)*)"
    r"(?::(?P<config>[^:/\[]+)(?=:))?(?::(?P<split>[^:/]*(?:\[.*\])?))?"
)
WRITTEN_BY_DATASETS = ("state.json", "dataset_dict.json")


def read_rows(path: str | Path) -> Rows:
    """The rows of a data set, in order.

    A file is read by its ending: .parquet, .arrow, .csv, .tsv; .json, one list of objects; else JSON lines, empty lines
    skipped. It may be packed (gzip, zstd, xz, bzip2, zip), and its text be UTF-8 or, with a byte order mark, UTF-16. A
    pattern ("data/*.parquet") is all files that match, by name. A folder is one that `datasets.save_to_disk` wrote, or
    one of such files, as in a clone from the hub. What is neither is the name of a data set on the hub, which
    `datasets` loads without running any code of it (offline under HF_HUB_OFFLINE): "owner/name", with a folder in it
    ("owner/name/folder"), a split ("owner/name:test", "owner/name:train[:100]"), or a configuration and a split
    ("owner/name:config:test"). Folders take a split, too; without one it is "train".

    Raises:
        InvalidArgumentError: no such data, a row that is no JSON object, or a package of the extra `train` missing.
    """
    source = Path(path)
    if source.is_file():
        return _file(source)
    folder, split = (source, None) if source.is_dir() else _split_off(str(path))
    if folder is not None and folder.is_dir():
        return _folder_rows(folder, split)
    matching = [Path(found) for found in sorted(glob.glob(str(path), recursive=True))]  # noqa: PTH207 (absolute ones too)
    if matching:
        return [row for found in matching if found.is_file() for row in _file(found)]
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


def _file(path: Path) -> Rows:
    rows = file_rows(str(path), path.read_bytes())
    for number, row in enumerate(rows, start=1):
        if not isinstance(row, dict):
            raise InvalidArgumentError(
                f"{path}, row {number}: a {type(row).__name__}, not an object: write rows like "
                '{"prompt": "text", "chosen": "text", "rejected": "text"}'
            )
    return rows


def _split_off(text: str) -> tuple[Path | None, str | None]:
    """`folder:split` in two; a split may hold a colon of its own, in brackets."""
    found = re.fullmatch(r"(?P<folder>.+?):(?P<split>[^:/\[]+(?:\[.*\])?)", text)
    return (Path(found["folder"]), found["split"]) if found else (None, None)


def _folder_rows(folder: Path, split: str | None) -> Rows:
    if any((folder / name).is_file() for name in WRITTEN_BY_DATASETS):
        return _saved_rows(folder, split)
    if not any(_holds_rows(path) for path in folder.rglob("*")):
        raise InvalidArgumentError(
            f"{folder} is a folder without files of rows, and datasets.save_to_disk did not write it: name a file"
        )
    return _loaded(str(folder), f"{folder} cannot be read as a data set", split=split or "train")


def _holds_rows(path: Path) -> bool:
    name = path.name.lower()
    for ending in ENDINGS:
        name = name.removesuffix(ending)
    return path.is_file() and name.endswith((*READERS, ".jsonl"))


def _saved_rows(folder: Path, split: str | None) -> Rows:
    datasets = needed("datasets", f"{folder} is a saved data set, which")
    loaded = datasets.load_from_disk(str(folder))
    if isinstance(loaded, datasets.DatasetDict):
        if (split or "train") not in loaded:
            splits = ", ".join(loaded)
            raise InvalidArgumentError(
                f"{folder} has no split {split or 'train'!r}: name one of {splits} as {folder}:…"
            )
        loaded = loaded[split or "train"]
    elif split is not None:
        raise InvalidArgumentError(f"{folder} has no splits: leave out :{split}")
    return without_nulls(loaded.to_list())


def _named_rows(name: str) -> Rows:
    found = DATASET_NAME.fullmatch(name)
    if any(letter in name for letter in "*?"):
        raise InvalidArgumentError(f"{name}: no file matches: check the pattern")
    if found is None or re.search(r"\.(jsonl?|parquet|arrow|csv|tsv|txt|gz|zst|xz|bz2|zip)$", name):
        raise InvalidArgumentError(f"{name}: no such file: check the path")
    options = {"name": found["config"], "data_dir": found["folder"].strip("/"), "split": found["split"] or "train"}
    return _loaded(
        found["name"],
        f"there is no file {name}, and no data set of that name could be loaded",
        **{key: value for key, value in options.items() if value},
    )


def _loaded(path: str, failed: str, **options: str) -> Rows:
    datasets = needed("datasets", f"there is no file {path}; a folder or data set of that name")
    try:
        return without_nulls(datasets.load_dataset(path, **options).to_list())
    except Exception as error:  # hub, network and builders raise what they like
        raise InvalidArgumentError(
            f"{failed} ({error}): check the path or name; a split is written {path}:SPLIT, a configuration "
            f"{path}:CONFIG:SPLIT"
        ) from error
