"""An adapter that training goes on with: what its files settle, and which base it is on."""

from __future__ import annotations

from dataclasses import MISSING, fields, replace
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError
from ..models.activation import Activation, read_activation, refuse_activated
from ..models.files import adapter_folder, read_json
from ..models.loading import base_of
from ..models.sources import model_path
from .folder import RECORD
from .settings import SCORERS, TrainingSettings


def base_for(base: str | None, continue_from: str | None) -> str:
    """The base of a run: the one named, else that of the adapter it goes on with, else the embedded one."""
    if base is None and continue_from is not None:
        return model_path(base_of(continue_from))
    return model_path(base)


def continued(settings: TrainingSettings) -> TrainingSettings:
    """The settings with rank, alpha and target modules of the adapter that training goes on with.

    Raises:
        InvalidArgumentError: they were chosen otherwise, or the adapter is of the other kind.
        LoadingError: an adapter that is not there or cannot be read.
    """
    if settings.continue_from is None:
        return settings
    folder = adapter_folder(settings.continue_from)
    config = read_json(folder / "adapter_config.json")
    _check_kind(settings, folder)
    _check_activation(settings, folder, read_activation(folder, config))
    targets = config.get("target_modules")
    found: dict[str, Any] = {
        "rank": config.get("r"),
        "alpha": config.get("lora_alpha"),
        "target_modules": tuple(sorted(targets)) if isinstance(targets, list) else (str(targets),),
    }
    defaults = {each.name: each.default for each in fields(TrainingSettings) if each.default is not MISSING}
    for name, value in found.items():
        asked = getattr(settings, name)
        if asked not in (defaults[name], value):
            raise InvalidArgumentError(
                f"{name.replace('_', ' ')} is {asked}, and the adapter to continue from has {value}: leave it out"
            )
    return replace(settings, **found)


def _check_activation(settings: TrainingSettings, folder: Path, found: Activation | None) -> None:
    """What sleeps on prompts and what does not are two kinds of adapter."""
    if settings.activate is None:
        what = f"--activate response was not asked for with {settings.kind}"
        cure = "pass it, or continue from an ordinary adapter" if settings.kind == "arm" else "continue from another"
        refuse_activated(folder, found, what, cure)
    elif found is None:
        raise InvalidArgumentError(
            f"{folder} is an ordinary adapter, awake on prompts, and cannot go on asleep on them: leave --activate "
            "out, or --continue-from"
        )


def _check_kind(settings: TrainingSettings, folder: Path) -> None:
    """A scorer has a head that a causal LM lacks, and the other way round."""
    if not (folder / RECORD).is_file():
        return
    kind = read_json(folder / RECORD).get("kind")
    if (kind in SCORERS) != (settings.kind in SCORERS):
        raise InvalidArgumentError(
            f"{folder} was trained as {kind}, and cannot go on as {settings.kind}: choose an adapter of that kind"
        )
