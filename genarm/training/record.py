"""training.json, beside the weights it speaks of: how they were made, from what, and how good they were at the end."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..models.sources import fingerprint
from .settings import TrainingSettings

NAME = "training.json"
PACKAGES = ("torch", "transformers", "peft", "accelerate", "trl")


def begin(settings: TrainingSettings, facts: dict[str, Any]) -> dict[str, Any]:
    """The record of a run that has not ended: what `genarm generate` and `genarm evaluate` read comes first."""
    own_beta = None if settings.kind == "trajectory-rm" else settings.beta
    return {
        "kind": settings.kind,
        "objective": settings.objective,
        "beta": own_beta,
        "base": settings.base,
        "base_fingerprint": fingerprint(settings.base),
        "state": "running",
        "seed": settings.seed,
        "settings": settings.identity(),
        "data": facts,
        "versions": {name: _version(name) for name in PACKAGES},
    }


def finish(record: dict[str, Any], metrics: dict[str, Any], history: list[dict[str, Any]]) -> dict[str, Any]:
    """The same with what came out; ``history`` is the Trainer's log."""
    return {**record, "state": "complete", "metrics": metrics, "history": history}


def read(folder: Path) -> dict[str, Any] | None:
    """The record in a folder; None where there is none.

    Raises:
        InvalidArgumentError: a training.json that is damaged, or no record of a run.
    """
    path = folder / NAME
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        return None
    except ValueError as error:
        raise InvalidArgumentError(f"{path} is damaged ({error}): choose another folder, or remove this one") from None
    parts = (
        "settings",
        "data",
        *(("metrics",) if isinstance(found, dict) and found.get("state") == "complete" else ()),
    )
    if not isinstance(found, dict) or not all(isinstance(found.get(part), dict) for part in parts):
        raise InvalidArgumentError(f"{path} is no record of a training run: choose another folder")
    return found


def write(folder: Path, record: dict[str, Any]) -> None:
    """Replaces the record in one move, so that a kill leaves the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{NAME}.new"
    new.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(folder / NAME)


def differences(record: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The settings in which two runs differ, by name, and "data" where their rows do.

    Versions do not count, nor does where the same rows are read from.
    """
    settings, others = record["settings"], other["settings"]
    names = [name for name in {**settings, **others} if name not in ("data", "eval_data")]
    differing = [name for name in names if settings.get(name) != others.get(name)]
    if "base" not in differing and record.get("base_fingerprint") != other.get("base_fingerprint"):
        differing.append("base")
    return [*differing, *(["data"] if record["data"] != other["data"] else [])]


def _version(package: str) -> str | None:
    try:
        return version(package).split("+")[0]
    except ImportError:
        return None
