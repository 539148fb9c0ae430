"""The output folder of a run: whose it is, its training.json, what a stopped run left in it, how it is left behind.

training.json stands beside the weights it describes: how they were made, from what, and how good they were at the end.
"""

from __future__ import annotations

import json
import shutil
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..models.sources import fingerprint
from .settings import SCORERS, TrainingSettings

Record = dict[str, Any]

RECORD = "training.json"
CHECKPOINTS = "checkpoints"
LOGS = "logs"  # of TensorBoard
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")


def new_record(settings: TrainingSettings, facts: dict[str, Any]) -> Record:
    """The record of a run that has not ended: what `genarm generate` and `genarm evaluate` read comes first."""
    own_beta = None if settings.kind in SCORERS else settings.beta
    return {
        "kind": settings.kind,
        "objective": settings.objective,
        **({"objectives": list(settings.objectives)} if settings.objectives else {}),
        "beta": own_beta,
        "base": settings.base,
        "base_fingerprint": fingerprint(settings.base),
        "continue_from_fingerprint": fingerprint(settings.continue_from) if settings.continue_from else None,
        "state": "running",
        "seed": settings.seed,
        "settings": settings.identity(),
        "data": facts,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def finished(record: Record, metrics: dict[str, Any], history: list[dict[str, Any]]) -> Record:
    """The record with the outcome of its run; ``history`` is the Trainer's log."""
    return {**record, "state": "complete", "metrics": metrics, "history": history}


def read_record(output: Path) -> Record | None:
    """The record in a folder; None where there is none.

    Raises:
        InvalidArgumentError: a training.json that is damaged, or not the record of a run.
    """
    path = output / RECORD
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidArgumentError(f"{path} is damaged ({error}): choose another folder, or remove this one") from None
    complete = isinstance(found, dict) and found.get("state") == "complete"
    parts = ("settings", "data", *(("metrics",) if complete else ()))
    if not isinstance(found, dict) or not all(isinstance(found.get(part), dict) for part in parts):
        raise InvalidArgumentError(f"{path} is not the record of a training run: choose another folder")
    return found


def write_record(output: Path, record: Record) -> None:
    """Replaces the record in one move, so that a kill leaves the old one or the new one."""
    output.mkdir(parents=True, exist_ok=True)
    new = output / f".{RECORD}.new"
    new.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(output / RECORD)


def differences(record: Record, other: Record) -> list[str]:
    """The settings in which two runs differ, by name, and "data" where their rows do.

    Versions do not count, nor does where the same rows are read from.
    """
    settings, others = record["settings"], other["settings"]
    compared = {**settings, **others}.items()
    # a record from before there was a setting is one of a run without it
    known = {name: value for name, value in compared if value or (name in settings and name in others)}
    names = [name for name in known if name not in ("data", "eval_data")]
    differing = [name for name in names if settings.get(name) != others.get(name)]
    for name in ("base", "continue_from"):
        if name not in differing and record.get(f"{name}_fingerprint") != other.get(f"{name}_fingerprint"):
            differing.append(name)
    return [*differing, *(["data"] if record["data"] != other["data"] else [])]


def earlier_run(output: Path, new: Record, overwrite: bool) -> Record | None:
    """The record of this same run in ``output``; None where it starts from nothing.

    Raises:
        InvalidArgumentError: what is there is no training run, or another one and ``overwrite`` is not set.
    """
    if output.exists() and not output.is_dir():
        raise InvalidArgumentError(f"{output} is a file: name a folder")
    if not any(path.is_file() for path in output.rglob("*")):
        return None
    old = read_record(output)
    if old is None:
        raise InvalidArgumentError(
            f"{output} holds files of something other than a training run: choose another folder"
        )
    if overwrite:
        return None
    differing = differences(old, new)
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
    mode = (output / RECORD).stat().st_mode
    for file in output.iterdir():
        if file.is_file():
            file.chmod(mode)


def _version(package: str) -> str | None:
    try:
        return version(package).split("+")[0]
    except ImportError:
        return None
