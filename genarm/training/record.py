"""training.json, beside the weights it speaks of: how they were made, from what, and how good they were at the end."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path
from typing import Any

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
    """The record in a folder; None where there is none that can be read."""
    try:
        record = json.loads((folder / NAME).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    return record if isinstance(record, dict) else None


def write(folder: Path, record: dict[str, Any]) -> None:
    """Replaces the record in one move, so that a kill leaves the old one or the new one."""
    folder.mkdir(parents=True, exist_ok=True)
    new = folder / f".{NAME}.new"
    new.write_text(json.dumps(record, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    new.replace(folder / NAME)


def same_run(record: dict[str, Any], other: dict[str, Any]) -> list[str]:
    """The settings and data in which two records differ, by name; versions do not count."""
    differing = [
        name
        for name in {**record["settings"], **other["settings"]}
        if record["settings"].get(name) != other["settings"].get(name)
    ]
    return [*differing, *(["data"] if record["data"] != other["data"] else [])]


def _version(package: str) -> str | None:
    try:
        return version(package).split("+")[0]
    except ImportError:
        return None
