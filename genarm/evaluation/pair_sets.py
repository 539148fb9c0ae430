"""Files of preference pairs, read and encoded, with what an evaluation needs to know of each pair."""

from __future__ import annotations

import json
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from ..errors import InvalidArgumentError
from ..preferences.encoding import EncodedPair, encode_pairs
from ..preferences.pairs import PreferencePair, read_pairs
from ..preferences.reading import PairReading
from .accuracy import Lengths, response_lengths


@dataclass(frozen=True, slots=True)
class PairSet:
    """N pairs of one file.

    lengths: [N, 2] response tokens. clusters: N values, equal where pairs are resampled together. values: N values of
    the column that accuracy is split by, None for no split. truncation: what `max_length` cut; ``dropped`` pairs are
    not among the N.
    """

    name: str
    path: str
    pairs: list[EncodedPair]
    lengths: Lengths
    clusters: list[Hashable]
    values: list[str] | None
    truncation: dict[str, int]
    note: str

    @property
    def dropped(self) -> int:
        return self.truncation["pairs_dropped"]


def read_set(
    name: str,
    path: str,
    tokenizer: Any,
    max_length: int | None = None,
    where: Mapping[str, str] | None = None,
    limit: int | None = None,
    cluster: str | None = None,
    by: str | None = None,
    reading: PairReading | None = None,
) -> PairSet:
    """The first ``limit`` pairs of a file that ``where`` keeps, encoded.

    Args:
        cluster: a column, "prompt", "chosen", or "none" (every pair on its own); None: the prompt, and the chosen
            response where the prompt is empty.
        by: a column to split accuracy by.
        reading: what the rows leave open.

    Raises:
        InvalidArgumentError: a file that cannot be read as pairs, a column it lacks, nothing left.
    """
    pairs = read_pairs(path, where, reading, limit)
    encoded = encode_pairs(tokenizer, pairs, max_length)
    if not encoded.pairs:
        raise InvalidArgumentError(f"{path}: no pair is left at --max-length {max_length}: raise it")
    kept = [pairs[row] for row in encoded.kept]
    truncation = asdict(encoded.truncation)
    return PairSet(
        name=name,
        path=path,
        pairs=encoded.pairs,
        lengths=response_lengths(encoded.pairs),
        clusters=clusters_of(kept, cluster, path),
        values=None if by is None else _column(kept, by, path),
        truncation=truncation,
        note="; ".join([*([encoded.truncation.summary()] if any(truncation.values()) else []), *encoded.notes]),
    )


def clusters_of(pairs: Sequence[PreferencePair], cluster: str | None, path: str = "the pairs") -> list[Hashable]:
    """What each pair shares with those it is resampled with; see `read_set`."""
    if cluster == "none":
        return list(range(len(pairs)))
    if cluster is None:
        return [("prompt", _key(pair.prompt)) if pair.prompt else ("chosen", _key(pair.chosen)) for pair in pairs]
    if cluster in ("prompt", "chosen"):
        return [_key(getattr(pair, cluster)) for pair in pairs]
    return list(_column(pairs, cluster, path))


def _column(pairs: Sequence[PreferencePair], name: str, path: str) -> list[str]:
    lacking = sum(name not in pair.columns for pair in pairs)
    if lacking:
        there = ", ".join(sorted({column for pair in pairs for column in pair.columns})) or "none"
        raise InvalidArgumentError(
            f"{path}: {lacking} of {len(pairs)} pairs have no column {name!r}: choose one of those there are ({there})"
        )
    return [_key(pair.columns[name]) for pair in pairs]


def _key(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value, sort_keys=True, default=str)
