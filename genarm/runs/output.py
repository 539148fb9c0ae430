"""The output of a run: whole lines appended to one file, and beside it a sidecar with the settings that made them."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import RunError
from .rows import RowKey, row_key

Settings = Mapping[str, Any]


def row_line(row: Mapping[str, Any]) -> bytes:
    """A row as one line of strict JSON, its newline included."""
    return (json.dumps(row, ensure_ascii=False, allow_nan=False) + "\n").encode()


@dataclass(slots=True)
class OutputFile:
    """One run's output. ``finished`` maps the key of every row in it to whether that row failed.

    Use: ``inspect`` before anything is loaded, ``begin`` before the first row, ``write`` for each, ``arrange`` after
    the last, ``close``. From the moment the file exists it is locked against a second process (where the file system
    has locks).
    """

    path: Path
    settings: Settings
    overwrite: bool = False
    finished: dict[RowKey, bool] = field(default_factory=dict)
    _descriptor: int | None = None
    _fresh: bool = True
    _retried: list[RowKey] = field(default_factory=list)

    @property
    def sidecar(self) -> Path:
        return self.path.with_name(self.path.name + ".meta.json")

    def inspect(self, keys: Sequence[RowKey], retry_failed: bool = False) -> None:
        """Look at what is there: finished rows of the same settings are kept, a torn last line is cut off. Failed rows
        count as finished unless they are to be tried again; then ``begin`` takes them out.

        Raises:
            RunError: the place cannot be written to, another process writes there, or the rows are not this run's.
        """
        _check_place(self.path)
        if not self.path.exists():
            return
        self._open(0)
        self._fresh = self.overwrite or os.fstat(self.descriptor).st_size == 0
        if not self._fresh:
            self._check_settings()
            self._read(keys)
        if retry_failed:
            self._retried = [key for key, failed in self.finished.items() if failed]
            self.finished = {key: False for key, failed in self.finished.items() if not failed}

    def begin(self) -> None:
        """Create the file and its sidecar, or empty it for a run that starts over.

        Raises:
            RunError: they cannot be written; what was created is removed.
        """
        if not self._fresh:
            if self._retried:
                self._rewrite([line for key, line in self._lines() if key in self.finished])
            return
        created = self._descriptor is None
        if created:
            self._open(os.O_CREAT | os.O_EXCL)
        try:
            os.ftruncate(self.descriptor, 0)
            _write_whole(self.sidecar, (json.dumps({"settings": self.settings}, indent=1) + "\n").encode())
        except OSError as error:
            if created:
                self.path.unlink(missing_ok=True)
            raise RunError(f"{self.sidecar}: cannot be written ({error.strerror}): choose another --output") from None
        self._fresh = False

    def write(self, row: Mapping[str, Any]) -> None:
        """Append one row by one write call; a write cut short by a full disk is taken back."""
        line = row_line(row)
        size = os.fstat(self.descriptor).st_size
        try:
            written = os.write(self.descriptor, line)
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}): finished rows are kept") from None
        if written < len(line):
            os.ftruncate(self.descriptor, size)
            raise RunError(f"{self.path}: the disk is full: make room and run the same command again")
        self.finished[row_key(row)] = row["finish_reason"] == "error"

    def arrange(self, keys: Sequence[RowKey]) -> None:
        """Put the rows into this order, where they are not: rows that were tried again, or came as they were done."""
        lines = self._lines()
        places = {key: place for place, key in enumerate(keys)}
        ordered = sorted(lines, key=lambda line: places[line[0]])
        if ordered != lines:
            self._rewrite([line for _, line in ordered])

    def rows(self) -> dict[RowKey, dict[str, Any]]:
        """Every row that is in the file, by its key."""
        return {key: json.loads(line) for key, line in self._lines()}

    def sync(self) -> None:
        """Wait until the rows so far are on the disk."""
        os.fsync(self.descriptor)

    def close(self) -> None:
        if self._descriptor is not None:
            os.close(self._descriptor)
            self._descriptor = None

    @property
    def descriptor(self) -> int:
        assert self._descriptor is not None, "begin() was not called"
        return self._descriptor

    def _open(self, flags: int) -> None:
        try:
            self._descriptor = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CLOEXEC | flags, 0o666)
        except FileExistsError:
            if self.path.is_symlink() and not self.path.exists():
                raise RunError(f"{self.path} links to a file that is not there: name that file as --output") from None
            raise RunError(f"{self.path} was made by another process meanwhile: run again, or choose another") from None
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}): choose another --output") from None
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.close()
            raise RunError(f"{self.path}: another genarm is writing to it: wait for it, or choose another") from None
        except OSError:
            return  # a file system without locks

    def _check_settings(self) -> None:
        try:
            saved = json.loads(self.sidecar.read_text(encoding="utf-8"))["settings"]
            difference = _difference(saved, json.loads(json.dumps(self.settings)))
        except FileNotFoundError:
            raise RunError(
                f"{self.path} exists, and no {self.sidecar.name} says how it was made: pass --overwrite, or choose "
                "another --output"
            ) from None
        except (OSError, ValueError, LookupError, TypeError, AttributeError):
            raise RunError(f"{self.sidecar} cannot be read: pass --overwrite, or choose another --output") from None
        if difference:
            raise RunError(
                f"{self.path} was made with other settings ({difference}): pass --overwrite, or choose another --output"
            )

    def _read(self, keys: Sequence[RowKey]) -> None:
        """Fill ``finished``; lines at the end that are no whole row are cut off."""
        known, end, torn = set(keys), 0, 0
        for number, line in enumerate(self.path.read_bytes().splitlines(keepends=True), 1):
            row = _whole_row(line)
            if row is None:
                torn = torn or number
                continue
            key = row_key(row)
            if torn or key not in known or key in self.finished:
                raise RunError(
                    f"{self.path} line {torn or number} is not a row of this run, or repeats one: pass "
                    "--overwrite, or choose another --output"
                )
            self.finished[key] = row["finish_reason"] == "error"
            end += len(line)
        os.ftruncate(self.descriptor, end)

    def _lines(self) -> list[tuple[RowKey, bytes]]:
        """Every row's line, by its key."""
        return [(row_key(json.loads(line)), line) for line in self.path.read_bytes().splitlines(keepends=True)]

    def _rewrite(self, lines: list[bytes]) -> None:
        """Replace the content in one step, so that whoever is stopped in between leaves all rows, old or new."""
        try:
            _write_whole(self.path, b"".join(lines))
        except OSError as error:
            raise RunError(f"{self.path}: cannot be written ({error.strerror}): its rows are as they were") from None
        self.close()
        self._open(0)


def _whole_row(line: bytes) -> dict[str, Any] | None:
    try:
        row = json.loads(line) if line.endswith(b"\n") else None
    except (ValueError, RecursionError):
        return None
    if not isinstance(row, dict) or not isinstance(row.get("sample", 1), int):
        return None
    return row if isinstance(row.get("id"), str | int) and "finish_reason" in row else None


def _check_place(path: Path) -> None:
    if not path.parent.is_dir():
        raise RunError(f"{path}: there is no directory {path.parent}: make it first")
    if path.is_dir():
        raise RunError(f"{path} is a directory: name a file")
    if path.exists() and not stat.S_ISREG(path.stat().st_mode):
        raise RunError(f"{path} is not a regular file: choose another --output, or none for the standard output")
    if not os.access(path.parent, os.W_OK | os.X_OK):
        raise RunError(f"{path}: the directory {path.parent} cannot be written to: choose another --output")


def _difference(saved: Settings, settings: Settings) -> str | None:
    """The first setting that differs, in words."""
    for name in {**settings, **saved}:
        if saved.get(name) == settings.get(name):
            continue
        if str(settings.get(name)).startswith("sha256:"):
            return f"{name} has changed"
        return f"{name}: {saved.get(name)} then, {settings.get(name)} now"
    return None


def _write_whole(path: Path, content: bytes) -> None:
    """Replace a file in one step, durably: whoever reads it sees all of it or none."""
    path = path.resolve()  # a link stays one
    draft = path.with_name(path.name + ".tmp")
    try:
        with draft.open("wb") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
        draft.replace(path)
    except OSError:
        with contextlib.suppress(OSError):
            draft.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)
