"""Which models a command line names, and how to tell that their files are still the same."""

from __future__ import annotations

import hashlib
import json
import math
import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..embedded import ACTIVATED, BASE, REWARDS
from ..errors import InvalidArgumentError, LoadingError

EMBEDDED = {**REWARDS, **ACTIVATED}
HUB_ID = re.compile(r"\w[\w.-]*(/\w[\w.-]*)?")  # name or owner/name
SAMPLE = 1 << 20


@dataclass(frozen=True, slots=True)
class RewardChoice:
    """One ``--reward``: a name, the folder or hub id of the model, its weight."""

    name: str
    path: str
    weight: float


def parse_rewards(texts: Sequence[str]) -> list[RewardChoice]:
    """Every ``--reward``, in order.

    Raises:
        InvalidArgumentError: a form that cannot be read, a weight that is no number, a name used twice.
        LoadingError: a path that is not there.
    """
    choices = [parse_reward(text) for text in texts]
    names = [choice.name for choice in choices]
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgumentError(f"--reward names {name!r} twice: give every reward model a name of its own")
    return choices


def parse_reward(text: str) -> RewardChoice:
    """NAME=PATH:WEIGHT, NAME=PATH, or an embedded reward model as NAME:WEIGHT or NAME; PATH:WEIGHT or PATH for a
    folder of `genarm train`, which is named by its objective.

    The text is split at its last colon only if a number follows, so that paths may hold colons.
    """
    rest, weight = _split_weight(text)
    objective = _objective(rest) if rest and rest not in EMBEDDED else None
    name, equals, path = rest.partition("=") if objective is None else (objective, "=", rest)
    if rest == text:
        _refuse_misplaced_weight(text, name, path)
    if not math.isfinite(weight):
        raise InvalidArgumentError(f"--reward {text!r} has the weight {weight}: weights are finite numbers")
    if not equals:
        if rest not in EMBEDDED:
            raise InvalidArgumentError(
                f"--reward {text!r} names no embedded reward model ({', '.join(EMBEDDED)}): write NAME=PATH:WEIGHT "
                "for one of your own"
            )
        return RewardChoice(rest, model_path(str(EMBEDDED[rest])), weight)
    if not name or not path:
        raise InvalidArgumentError(
            f"--reward {text!r} cannot be read: write NAME=PATH:WEIGHT, NAME=PATH or NAME:WEIGHT"
        )
    if name == "base":
        raise InvalidArgumentError(f"--reward {text!r} is named 'base', as the base model is: give it another name")
    return RewardChoice(name, model_path(path), weight)


def parse_reward_bases(texts: Sequence[str], names: Sequence[str]) -> dict[str, str]:
    """Every ``--reward-base NAME=base|own|PATH``, for reward models of these names: "base", "own", or a folder or hub
    id.

    Raises:
        InvalidArgumentError: a form that cannot be read, a name that is not among them or comes twice.
        LoadingError: a path that is not there.
    """
    found: dict[str, str] = {}
    for text in texts:
        name, equals, choice = text.partition("=")
        if not (name and equals and choice):
            raise InvalidArgumentError(f"--reward-base {text!r} cannot be read: write NAME=own, NAME=base or NAME=PATH")
        if name not in names or name in found:
            what = "twice" if name in found else f"and there is no such reward model: {', '.join(names) or 'none'}"
            raise InvalidArgumentError(f"--reward-base names {name!r} {what}")
        found[name] = choice if choice in {"base", "own"} else model_path(choice)
    return found


def model_path(name: str | None) -> str:
    """The absolute path of a model's folder, or a hub id as it is; the embedded base for None.

    Raises:
        LoadingError: what is no hub id, and so can only be a path, is not there.
    """
    if name is None:
        return model_path(str(BASE))
    folder = Path(name).expanduser()
    if folder.exists():
        return str(folder.resolve())
    if not HUB_ID.fullmatch(name):
        raise LoadingError(f"{name}: no such folder: check the path")
    return name


def fingerprint(path: str) -> str | None:
    """A digest that changes when a model's files do: names, sizes, and the first and last MiB of each.

    None for a hub id. So a run is not resumed with an adapter that was trained anew in the same place, and a base of
    many gigabytes costs a few reads.
    """
    folder = Path(path)
    if not folder.is_dir():
        return None
    digest = hashlib.sha256()
    found = [*folder.iterdir(), *folder.glob("*/adapter_*")]  # PEFT puts an adapter with a name into a folder of it
    files = [file for file in found if file.suffix in {".safetensors", ".json", ".jinja"} and file.is_file()]
    for file in sorted(files):
        size = file.stat().st_size
        digest.update(f"{file.relative_to(folder)} {size}\n".encode())
        try:
            with file.open("rb") as stream:
                digest.update(stream.read(SAMPLE))
                stream.seek(max(size - SAMPLE, 0))
                digest.update(stream.read(SAMPLE))
        except OSError as error:
            raise LoadingError(f"{file}: cannot be read ({error.strerror}): check its permissions") from None
    return f"sha256:{digest.hexdigest()}"


def _objective(path: str) -> str | None:
    """What a folder of `genarm train` was trained for; None for any other text."""
    try:
        record = json.loads((Path(path).expanduser() / "training.json").read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None
    found = record.get("objective") if isinstance(record, dict) else None
    return found if isinstance(found, str) and found else None


def _refuse_misplaced_weight(text: str, name: str, path: str) -> None:
    """Raise where a text without a weight seems to mean one: art:foo, name=folder:foo, art=1.0."""
    known, _, tail = text.rpartition(":")
    folder = Path(known.removeprefix(f"{name}=")).expanduser()
    if known in EMBEDDED or (known and folder.exists() and not Path(path or text).expanduser().exists()):
        raise InvalidArgumentError(f"--reward {text!r} has the weight {tail!r}, which is no number: write {known}:1.0")
    if _is_number(path) and not Path(path).exists():
        form = f"{name}:{path}" if name in EMBEDDED else f"{name}=PATH:{path}"
        raise InvalidArgumentError(f"--reward {text!r} has a number for a path: a weight follows a colon, {form}")


def _is_number(text: str) -> bool:
    try:
        float(text)
    except ValueError:
        return False
    return True


def _split_weight(text: str) -> tuple[str, float]:
    rest, colon, tail = text.rpartition(":")
    try:
        return (rest, float(tail)) if colon else (text, 1.0)
    except ValueError:
        return text, 1.0
