"""Several data sets as one list of pairs, and what a kind of model reads of their rows beside the texts."""

from __future__ import annotations

import math
import random
from collections.abc import Sequence

from ..errors import InvalidArgumentError
from ..preferences.encoding import EncodedPair
from ..preferences.pairs import PreferencePair, read_pairs
from .settings import TrainingSettings


def mixed(settings: TrainingSettings) -> list[list[PreferencePair]]:
    """The pairs of each data set, as often as its weight says.

    Raises:
        InvalidArgumentError: rows that are no pairs, other than one weight per data set, or one that is not above 0 or
            takes no pair.
    """
    paths = [settings.data] if isinstance(settings.data, str) else list(settings.data)
    weights = settings.data_weights or (1.0,) * len(paths)
    if len(weights) != len(paths):
        raise InvalidArgumentError(
            f"{len(weights)} data weights were given for {len(paths)} data sets: give one for each"
        )
    found: list[list[PreferencePair]] = []
    for path, weight in zip(paths, weights, strict=True):
        if not (weight > 0 and math.isfinite(weight)):
            raise InvalidArgumentError(f"the data weight {weight} is not above 0: leave the data set out instead")
        pairs = read_pairs(path, settings.where, settings.reading, settings.limit)
        taken = weighed(pairs, weight)
        if not taken:
            raise InvalidArgumentError(
                f"{path}: the data weight {weight} takes none of its {len(pairs)} pairs: raise it, or leave it out"
            )
        found.append(taken)
    return found


def weighed(pairs: list[PreferencePair], weight: float) -> list[PreferencePair]:
    """Every pair as often as ``weight`` has whole parts, and a fixed sample of them for the rest, in their order."""
    whole, rest = divmod(weight, 1.0)
    sample = random.Random(0).sample(range(len(pairs)), round(rest * len(pairs)))
    return pairs * int(whole) + [pairs[place] for place in sorted(sample)]


def once(pairs: list[PreferencePair]) -> list[PreferencePair]:
    """The pairs without those that a weight repeats: what is measured on counts once."""
    return list({id(pair): pair for pair in pairs}.values())


def names(settings: TrainingSettings) -> str:
    """The data sets, for a message."""
    return settings.data if isinstance(settings.data, str) else ", ".join(settings.data)


def notes_on_columns(settings: TrainingSettings, pairs: Sequence[PreferencePair]) -> list[str]:
    """Which columns of the rows nothing is learned from."""
    own = {"margin"} if settings.kind == "trajectory-rm" else set()
    there = {name: None for pair in pairs for name, value in pair.columns.items() if value not in (None, "")}
    unread = [name for name in there if name not in own and name not in settings.where]
    return [f"columns that nothing is learned from: {', '.join(unread)}"] if unread else []


def check_margins(settings: TrainingSettings, pairs: Sequence[EncodedPair]) -> None:
    """A trajectory RM's loss takes the rows' margins, of all rows or of none.

    Raises:
        InvalidArgumentError: some pairs have a margin and others have none.
    """
    if settings.kind == "trajectory-rm":
        count = sum("margin" in pair for pair in pairs)
        if count not in (0, len(pairs)):
            raise InvalidArgumentError(
                f"{names(settings)}: {count} of {len(pairs)} pairs have a margin: give every row one, or pass them by "
                "with --map margin="
            )
