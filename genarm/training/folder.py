"""The output folder of a run: whose it is, what a stopped run left in it, and how it is left behind."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from . import record

CHECKPOINTS = "checkpoints"


def earlier_run(output: Path, new: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The record of this same run in ``output``; None where it starts from nothing.

    Raises:
        InvalidArgumentError: what is there is no training run, or another one and ``overwrite`` is not set.
    """
    if output.exists() and not output.is_dir():
        raise InvalidArgumentError(f"{output} is a file: name a folder")
    if not any(path.is_file() for path in output.rglob("*")):
        return None
    old = record.read(output)
    if old is None:
        raise InvalidArgumentError(
            f"{output} holds files of something other than a training run: choose another folder"
        )
    if overwrite:
        return None
    differing = record.differences(old, new)
    if differing:
        raise InvalidArgumentError(
            f"{output} holds a run with another {', '.join(differing)}: choose another folder, or --overwrite it"
        )
    return old


def clear(output: Path) -> None:
    """An empty folder, whatever was in it; a link to a folder stays one."""
    output.mkdir(parents=True, exist_ok=True)
    for item in output.iterdir():
        if item.is_dir() and not item.is_symlink():
            shutil.rmtree(item)
        else:
            item.unlink()


def last_checkpoint(work: Path) -> Path | None:
    """The newest whole checkpoint: the Trainer writes its state last, and a kill may cut it short."""
    found = [folder for folder in work.glob("checkpoint-*") if _is_whole(folder)]
    return max(found, key=lambda folder: int(folder.name.rpartition("-")[2]), default=None)


def _is_whole(checkpoint: Path) -> bool:
    try:
        state = json.loads((checkpoint / "trainer_state.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return False
    return isinstance(state, dict)


def drop_checkpoints(output: Path) -> None:
    """Pickled states of optimisers go once the run is over."""
    shutil.rmtree(output / CHECKPOINTS, ignore_errors=True)


def open_up(output: Path) -> None:
    """Every file becomes as readable as the record: safetensors are written for their owner alone."""
    mode = (output / record.NAME).stat().st_mode
    for file in output.iterdir():
        if file.is_file():
            file.chmod(mode)
