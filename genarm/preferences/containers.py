"""Files of rows: what they are packed in, how their text is encoded, and the form of their rows."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import zipfile
import zlib
from collections.abc import Callable
from pathlib import PurePath
from typing import Any

from ..errors import InvalidArgumentError

# What a packed file begins with, and the endings that say nothing of the rows in it.
PACKED = {
    b"\x1f\x8b": "gzip",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"\xfd7zXZ\x00": "xz",
    b"BZh": "bzip2",
    b"PK\x03\x04": "zip",
}
ENDINGS = (".gz", ".zst", ".zstd", ".xz", ".bz2", ".zip")
MARKS = (
    (b"\xff\xfe\x00\x00", "utf-32"),
    (b"\x00\x00\xfe\xff", "utf-32"),
    (b"\xff\xfe", "utf-16"),
    (b"\xfe\xff", "utf-16"),
)
# What other forms are brought to JSON lines by.
PANDAS = "python -c \"import pandas; pandas.{}('{}').to_json('pairs.jsonl', orient='records', lines=True)\""
CONVERSIONS = {
    ".xlsx": PANDAS.format("read_excel", "FILE"),
    ".xls": PANDAS.format("read_excel", "FILE"),
    ".orc": PANDAS.format("read_orc", "FILE"),
    ".pkl": PANDAS.format("read_pickle", "FILE"),
    ".pickle": PANDAS.format("read_pickle", "FILE"),
    ".tar": "tar xf FILE -C FOLDER, and name the folder,",
    ".tgz": "tar xzf FILE -C FOLDER, and name the folder,",
    ".7z": "7z x FILE",
    ".yaml": "yq -o json FILE > pairs.json",
    ".yml": "yq -o json FILE > pairs.json",
    ".db": "sqlite3 -json FILE 'select * from TABLE' > pairs.json",
    ".sqlite": "sqlite3 -json FILE 'select * from TABLE' > pairs.json",
}


def file_rows(name: str, data: bytes) -> list[Any]:
    """The rows of one file, by its ending: Parquet, Arrow, CSV, TSV, JSON, else JSON lines; packed or not.

    Raises:
        InvalidArgumentError: what cannot be read, by name and, for text, by line.
    """
    inner, data = _unpacked(name, data)
    ending = PurePath(inner).suffix.lower()
    if ending in CONVERSIONS:
        raise InvalidArgumentError(f"{name}: {ending} files are not read: convert it, as {CONVERSIONS[ending]} does")
    return READERS.get(ending, _json_lines)(name, data)


def _unpacked(name: str, data: bytes) -> tuple[str, bytes]:
    """The file's own name and content, whatever it is packed in."""
    kind = next((kind for mark, kind in PACKED.items() if data.startswith(mark)), None)
    inner = name
    while PurePath(inner).suffix.lower() in ENDINGS:
        inner = inner[: -len(PurePath(inner).suffix)]
    if kind is None:
        return inner, data
    try:
        if kind == "zip" and PurePath(name).suffix.lower() not in CONVERSIONS:
            return _member(name, data)
        unpack = {"gzip": gzip.decompress, "xz": lzma.decompress, "bzip2": bz2.decompress, "zstd": _zstd}
        return inner, unpack.get(kind, bytes)(data)
    except InvalidArgumentError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, lzma.LZMAError, zipfile.BadZipFile, RuntimeError) as error:
        raise InvalidArgumentError(
            f"{name}: its {kind} data is cut short or corrupt ({error}): copy it again"
        ) from None


def _member(name: str, data: bytes) -> tuple[str, bytes]:
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        files = [item.filename for item in archive.infolist() if not item.is_dir()]
        files = [each for each in files if not each.startswith("__MACOSX/")]
        if len(files) != 1:
            raise InvalidArgumentError(
                f"{name} holds {len(files)} files: unpack it, as `unzip FILE -d FOLDER` does, and name the folder"
            )
        return files[0], archive.read(files[0])


def _zstd(data: bytes) -> bytes:
    pyarrow = needed("pyarrow", "a file packed by zstd")
    packed = pyarrow.CompressedInputStream(pyarrow.BufferReader(data), "zstd")
    unpacked: bytes = packed.read()
    return unpacked


def needed(package: str, what: str) -> Any:
    """An optional package, or an error that says what it is needed for."""
    try:
        return __import__(package)
    except ImportError as error:
        raise InvalidArgumentError(f"{what} needs {package} ({error}): pip install 'genarm[train]'") from error


def _text(name: str, data: bytes) -> str:
    """Text in UTF-8, or in what its byte order mark says."""
    encoding = next((encoding for mark, encoding in MARKS if data.startswith(mark)), "utf-8-sig")
    try:
        return data.decode(encoding)
    except UnicodeDecodeError as error:
        line = data[: error.start].count(b"\n") + 1
        wanted = encoding.upper().removesuffix("-SIG")
        raise InvalidArgumentError(
            f"{name}, line {line}: not {wanted} ({error.reason} at byte {error.start} of "
            "the file): convert it, as `iconv -f ENCODING -t UTF-8 FILE` does"
        ) from None


def _json_lines(name: str, data: bytes) -> list[Any]:
    rows = []
    for number, line in enumerate(_text(name, data).split("\n"), start=1):
        if not line.strip():
            continue
        try:
            rows.append(json.loads(line))
        except (ValueError, RecursionError) as error:
            raise InvalidArgumentError(
                f"{name}, line {number}: not JSON ({error}): write one object per line"
            ) from None
    return rows


def _json_list(name: str, data: bytes) -> list[Any]:
    text = _text(name, data)
    try:
        rows = json.loads(text)
    except (ValueError, RecursionError) as error:
        if text.lstrip().startswith("{"):
            return _json_lines(name, data)  # JSON lines under the name .json are common
        raise InvalidArgumentError(f"{name}: not JSON ({error}): write one list of objects") from None
    if isinstance(rows, list):
        return rows
    if isinstance(rows, dict) and len(text.strip().splitlines()) == 1:
        return [rows]
    raise InvalidArgumentError(f"{name}: holds a {type(rows).__name__}: write one list of objects, or JSON lines")


def _separated(delimiter: str) -> Callable[[str, bytes], list[Any]]:
    def read(name: str, data: bytes) -> list[Any]:
        reader = csv.DictReader(io.StringIO(_text(name, data), newline=""), delimiter=delimiter, strict=True)
        csv.field_size_limit(2**31 - 1)
        rows: list[Any] = []
        try:
            for row in reader:
                if None in row or None in row.values():
                    raise InvalidArgumentError(
                        f"{name}, line {reader.line_num}: not one value for each of the {len(reader.fieldnames or ())} "
                        "columns that the first line names: quote values with commas, quotes or line breaks in them"
                    )
                rows.append(row)
        except csv.Error as error:
            raise InvalidArgumentError(f"{name}, line {reader.line_num}: not CSV ({error}): quote its values") from None
        return rows

    return read


def _parquet(name: str, data: bytes) -> list[Any]:
    pyarrow = needed("pyarrow", f"{name} is Parquet, which")
    from pyarrow import parquet

    try:
        return without_nulls(parquet.read_table(pyarrow.BufferReader(data)).to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidArgumentError(f"{name}: cannot be read as Parquet ({error}): write the file again") from error


def _arrow(name: str, data: bytes) -> list[Any]:
    pyarrow = needed("pyarrow", f"{name} is Arrow, which")
    try:
        reader = pyarrow.ipc.open_file if data.startswith(b"ARROW1") else pyarrow.ipc.open_stream
        return without_nulls(reader(pyarrow.BufferReader(data)).read_all().to_pylist())
    except (pyarrow.ArrowException, OSError) as error:
        raise InvalidArgumentError(f"{name}: cannot be read as Arrow ({error}): write the file again") from error


def without_nulls(rows: list[Any]) -> list[Any]:
    """Rows of a table without the nulls inside their values: a table gives all records of a column all keys, so that
    one tool's arguments come back with those of every other tool, null."""
    return [{name: _without_nulls(value) for name, value in row.items()} for row in rows]


def _without_nulls(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _without_nulls(held) for name, held in value.items() if held is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


READERS: dict[str, Callable[[str, bytes], list[Any]]] = {
    ".parquet": _parquet,
    ".arrow": _arrow,
    ".feather": _arrow,
    ".csv": _separated(","),
    ".tsv": _separated("\t"),
    ".json": _json_list,
}
