"""What the command line of an evaluation names: scorers with their kinds, and files of pairs."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from ..errors import InvalidArgumentError, LoadingError
from ..models.sources import model_path, parse_reward, parse_reward_bases

Kind = Literal["base", "arm", "dpo", "trajectory-rm"]
OPTIONS: dict[Kind, str] = {"arm": "--reward", "dpo": "--dpo", "trajectory-rm": "--trajectory-rm"}
ENDINGS = (".gz", ".zst", ".xz", ".bz2", ".zip", ".jsonl", ".json", ".parquet", ".arrow", ".csv", ".tsv")


@dataclass(frozen=True, slots=True)
class Choice:
    """A scorer: its name, what its score is, and its folder or hub id.

    ``base`` is the base that an adapter goes on: "base", "own", a path, or None for the one given where it fits.
    """

    name: str
    kind: Kind
    path: str
    base: str | None = None


def parse_choices(
    rewards: Sequence[str] = (),
    trajectory_rms: Sequence[str] = (),
    dpos: Sequence[str] = (),
    reward_bases: Sequence[str] = (),
) -> list[Choice]:
    """Every ``--reward``, ``--trajectory-rm`` and ``--dpo``, each with its ``--reward-base``.

    Raises:
        InvalidArgumentError: a form that cannot be read, a path that is not there, a name used twice.
    """
    choices = [_reward(text) for text in rewards]
    choices += [_named(text, "trajectory-rm") for text in trajectory_rms]
    choices += [_named(text, "dpo") for text in dpos]
    _refuse_doubles([choice.name for choice in choices], "scorers")
    bases = parse_reward_bases(reward_bases, [choice.name for choice in choices])
    return [replace(choice, base=bases.get(choice.name)) for choice in choices]


def base_path(base: str | None) -> str:
    """The base's folder or hub id; the embedded base for None. A path that is not there is InvalidArgumentError."""
    try:
        return model_path(base)
    except LoadingError as error:
        raise InvalidArgumentError(f"--base {error}") from None


def parse_data(texts: Sequence[str]) -> dict[str, str]:
    """Files of pairs by name, from NAME=FILE or FILE, which is named by its stem.

    Raises:
        InvalidArgumentError: none at all, an empty name or file, a name used twice.
    """
    if not texts:
        raise InvalidArgumentError("there is nothing to evaluate on: give --data FILE or --data NAME=FILE")
    found = [_data(text) for text in texts]
    _refuse_doubles([name for name, _ in found], "data sets")
    return dict(found)


def _reward(text: str) -> Choice:
    try:
        found = parse_reward(text)
    except LoadingError as error:
        raise InvalidArgumentError(f"--reward {error}") from None
    if found.weight != 1.0:
        raise InvalidArgumentError(f"--reward {text!r} has a weight, and an evaluation takes none: leave it out")
    return Choice(found.name, "arm", found.path)


def _named(text: str, kind: Kind) -> Choice:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise InvalidArgumentError(f"{OPTIONS[kind]} {text!r} cannot be read: write NAME=PATH")
    if name == "base":
        raise InvalidArgumentError(f"{OPTIONS[kind]} {text!r} is named 'base', as the base is: give it another name")
    try:
        return Choice(name, kind, model_path(path))
    except LoadingError as error:
        raise InvalidArgumentError(f"{OPTIONS[kind]} {error}") from None


def _data(text: str) -> tuple[str, str]:
    name, equals, path = text.partition("=")
    if not equals or Path(text).exists():
        return _stem(text), text
    if not (name and path):
        raise InvalidArgumentError(f"--data {text!r} cannot be read: write FILE or NAME=FILE")
    return name, path


def _stem(path: str) -> str:
    stem = Path(path).name
    for ending in ENDINGS:
        stem = stem.removesuffix(ending)
    return stem or path


def _refuse_doubles(names: Sequence[str], what: str) -> None:
    for name in names:
        if names.count(name) > 1:
            raise InvalidArgumentError(f"two {what} are named {name!r}: give each a name of its own, NAME=PATH")
