"""A file of JSON lines that grows, each under a key of what it is the answer to: one write per line, and a torn last
line is cut off."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ..errors import RunError
from ..runs.output import row_line


class Answered:
    """Rows by their "key", such as a digest of what was asked, in the order they were written.

    Raises:
        RunError: the file holds a line, other than a torn last one, that is no row.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: dict[str, dict[str, Any]] = {}
        end = 0
        lines = path.read_bytes().splitlines(keepends=True) if path.exists() else []
        for number, line in enumerate(lines, 1):
            row = _whole(line)
            if row is None and number < len(lines):
                raise RunError(f"{path} line {number} is damaged: remove that line, or the file")
            if row is not None:
                self.rows[row["key"]] = row
                end += len(line)
        if lines and path.stat().st_size > end:
            os.truncate(path, end)

    def append(self, row: Mapping[str, Any]) -> None:
        """Raises RunError where the file cannot be written."""
        line = row_line(row)
        try:
            with self.path.open("ab", buffering=0) as stream:
                written = stream.write(line)
                if written < len(line):
                    stream.truncate(stream.tell() - written)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}): what is in it is kept") from None
        if written < len(line):
            raise RunError(f"{self.path}: the disk is full: make room and run the same command again")
        self.rows[row["key"]] = dict(row)


def _whole(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except ValueError:
        return None
    return row if isinstance(row, dict) and isinstance(row.get("key"), str) else None
