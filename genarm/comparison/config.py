"""What a comparison is: a TOML file that names a base, prompts, a judge, and methods with their settings."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from ..errors import InvalidArgumentError, LoadingError
from ..models.sources import EMBEDDED, model_path

BASE = "base"  # plain decoding, which every comparison has first
NAMED_FOLDER = ("./", "../")


@dataclass(frozen=True, slots=True)
class MethodChoice:
    """One row of the table: ``label``, the registered method of that name or ``method``, the reward models that its
    decoder has, and its keywords."""

    label: str
    method: str
    rewards: tuple[str, ...] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Comparison:
    """A configuration with its paths made absolute.

    ``prompts``: a file as of `genarm generate --input`. ``judge``: a trajectory RM that none of ``methods`` uses.
    ``rewards``: autoregressive reward models by name. ``reference``: the label that the others are set against.
    ``criterion``: what an endpoint is asked to judge by, None for the usual.
    """

    base: str
    prompts: Path
    judge: str
    methods: tuple[MethodChoice, ...]
    rewards: Mapping[str, str] = field(default_factory=dict)
    seeds: tuple[int, ...] = (0, 1, 2)
    max_new_tokens: int = 128
    batch_size: int = 8
    reference: str = BASE
    dataset: str = ""
    chat: bool = False
    system: str | None = None
    criterion: str | None = None


KINDS: dict[str, tuple[type, ...]] = {
    "base": (str,),
    "prompts": (str,),
    "judge": (str,),
    "methods": (dict,),
    "rewards": (dict,),
    "seeds": (list,),
    "max_new_tokens": (int,),
    "batch_size": (int,),
    "reference": (str,),
    "dataset": (str,),
    "chat": (bool,),
    "system": (str,),
    "criterion": (str,),
}
NEEDED = ("prompts", "judge", "methods")


def read_comparison(path: Path) -> Comparison:
    """The comparison that a TOML file describes.

    Raises:
        InvalidArgumentError: no TOML, an unknown name, a value of another kind, a label or a model that is not there.
    """
    try:
        found = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise InvalidArgumentError(f"{path}: cannot be read ({error.strerror}): name a TOML file") from None
    except ValueError as error:
        raise InvalidArgumentError(f"{path}: is no TOML ({error})") from None
    for name, value in found.items():
        _check(path, name, value)
    missing = [name for name in NEEDED if not found.get(name)]
    if missing:
        raise InvalidArgumentError(f"{path}: has no {' and no '.join(missing)}: docs/comparison.md has an example")
    folder = path.resolve().parent
    rewards = {name: _model(path, folder, str(one)) for name, one in found.pop("rewards", {}).items()}
    methods = tuple(_method(path, folder, label, own, rewards) for label, own in found.pop("methods").items())
    prompts = folder / found.pop("prompts")
    comparison = Comparison(
        base=_model(path, folder, found.pop("base")) if "base" in found else model_path(None),
        prompts=prompts,
        judge=_model(path, folder, found.pop("judge")),
        methods=methods,
        rewards=rewards,
        seeds=tuple(found.pop("seeds", Comparison.__dataclass_fields__["seeds"].default)),
        dataset=found.pop("dataset", prompts.stem),
        **found,
    )
    _check_numbers(path, comparison)
    return comparison


def _check(path: Path, name: str, value: Any) -> None:
    if name not in KINDS:
        raise InvalidArgumentError(f"{path}: has {name!r}, which nothing reads: the names are {', '.join(KINDS)}")
    if not isinstance(value, KINDS[name]) or (isinstance(value, bool) and bool not in KINDS[name]):
        kind = {dict: "a table", list: "a list", str: "text", int: "a whole number", bool: "true or false"}
        raise InvalidArgumentError(f"{path}: {name} is {value!r}: write {kind[KINDS[name][0]]}")


def _check_numbers(path: Path, comparison: Comparison) -> None:
    seeds = comparison.seeds
    if not seeds or len(set(seeds)) < len(seeds) or not all(type(seed) is int and seed >= 0 for seed in seeds):
        raise InvalidArgumentError(f"{path}: seeds is {list(seeds)}: write whole numbers from 0, each once")
    for name in ("max_new_tokens", "batch_size"):
        if getattr(comparison, name) < 1:
            raise InvalidArgumentError(f"{path}: {name} is {getattr(comparison, name)}: write 1 or more")
    labels = [BASE, *(method.label for method in comparison.methods)]
    if comparison.reference not in labels:
        known = ", ".join(labels)
        raise InvalidArgumentError(f"{path}: reference names {comparison.reference!r}: the methods are {known}")


def _method(path: Path, folder: Path, label: str, own: Any, rewards: Mapping[str, str]) -> MethodChoice:
    if not isinstance(own, dict):
        raise InvalidArgumentError(f"{path}: methods.{label} is {own!r}: write a table, [methods.{label}]")
    if label == BASE or "/" in label:
        raise InvalidArgumentError(
            f"{path}: a method is called {label!r}: {BASE!r} is plain decoding, and no name has /"
        )
    names = own.get("rewards", [])
    unknown = [name for name in names if name not in rewards]
    if unknown:
        known = ", ".join(rewards) or "none"
        raise InvalidArgumentError(
            f"{path}: methods.{label} takes the reward model {unknown[0]!r}: [rewards] has {known}"
        )
    settings = {name: _value(folder, one) for name, one in own.items() if name not in {"method", "rewards"}}
    return MethodChoice(label, own.get("method", label), tuple(names), settings)


def _value(folder: Path, value: Any) -> Any:
    """A setting; text that begins with ./ or ../ is a path beside the file, in lists and tables as well."""
    if isinstance(value, str) and value.startswith(NAMED_FOLDER):
        return str((folder / value).resolve())
    if isinstance(value, list):
        return [_value(folder, one) for one in value]
    if isinstance(value, dict):
        return {name: _value(folder, one) for name, one in value.items()}
    return value


def _model(path: Path, folder: Path, name: str) -> str:
    """A model's folder, seen from the configuration's, an embedded reward model, or a hub id."""
    if name in EMBEDDED:
        return model_path(str(EMBEDDED[name]))
    beside = folder / Path(name).expanduser()
    try:
        return model_path(str(beside) if beside.exists() or name.startswith(NAMED_FOLDER) else name)
    except LoadingError as error:
        raise InvalidArgumentError(f"{path}: {error}") from None
