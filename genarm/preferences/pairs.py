"""Preference pairs from anything that holds rows, in the formats that TRL reads and those of public data sets."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from .gathering import Gathering
from .pair import PreferencePair
from .reading import PairReading
from .rows import Rows, read_rows

__all__ = ["PreferencePair", "read_pairs"]


def read_pairs(
    path: str | Path | Sequence[str | Path],
    where: Mapping[str, str] | None = None,
    reading: PairReading | None = None,
    limit: int | None = None,
    **wanted: str,
) -> list[PreferencePair]:
    """Preference pairs from anything that `read_rows` reads, in order; of several data sets, one after the other.

    A row has `chosen`, `rejected` and, where there is one, `prompt`: strings, or lists of chat messages, or a prompt in
    messages with responses in strings; or the columns of a public data set (docs/preference-data.md). Without `prompt`
    both sides hold the whole, and what they begin with alike is the prompt: whole messages, or text up to where the
    assistant speaks. Pairs that teach nothing are left out with a warning that counts them: sides that are equal or
    part before their last reply, labels that prefer neither.

    Args:
        path: a file, a folder, a pattern or a data set's name, or several of them.
        where, wanted: keep the rows whose columns have these values, compared as strings:
            read_pairs(path, objective="agreeableness").
        reading: what rows leave open, see `PairReading`.
        limit: at most this many pairs of each data set, from its beginning.

    Raises:
        InvalidArgumentError: rows that are no such pairs, by file and row numbers (counted from 1), or nothing left.
    """
    paths = [path] if isinstance(path, str | Path) else list(path)
    asked = {**(where or {}), **wanted}
    found = [_read(each, asked, reading or PairReading())[:limit] for each in paths]
    return [pair for pairs in found for pair in pairs]


def _read(path: str | Path, asked: Mapping[str, str], reading: PairReading) -> list[PreferencePair]:
    found = Gathering(str(path), reading)
    for number, row in kept_rows(path, asked):
        found.take(number, row)
    return found.pairs()


def kept_rows(path: str | Path, asked: Mapping[str, str]) -> list[tuple[int, dict[str, Any]]]:
    """The rows with these values, compared as strings, and their numbers counted from 1.

    Raises:
        InvalidArgumentError: there is none.
    """
    rows = list(enumerate(read_rows(path), start=1))
    if not rows:
        raise InvalidArgumentError(f"{path} is empty: write rows with chosen and rejected")
    kept = [(number, row) for number, row in rows if all(_as_text(row.get(name)) == asked[name] for name in asked)]
    if not kept:
        raise InvalidArgumentError(f"{path}: no row has {_listed(asked)}: {_values(asked, [row for _, row in rows])}")
    return kept


def _as_text(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, default=str)


def _listed(asked: Mapping[str, str]) -> str:
    return " and ".join(f"{name} = {value}" for name, value in asked.items())


def _values(asked: Mapping[str, str], rows: Rows) -> str:
    """What the columns asked for do hold, to choose from."""
    found = []
    for name in asked:
        held = sorted({_as_text(row[name]) for row in rows if name in row})
        shown = ", ".join(held[:10]) + (", …" if len(held) > 10 else "")
        found.append(f"{name} is one of {shown}" if held else f"there is no column {name}")
    return "; ".join(found)
