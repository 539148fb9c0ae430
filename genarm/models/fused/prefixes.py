"""Which prompts a session holds once for all rows that begin with them: their places, and the room they take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from torch import Tensor

from ...errors import CacheMemoryError
from ..activation import Activation

# The adapter that reads a prompt but for its last token, −1 for none, and the prompt's ids.
Key = tuple[int, tuple[int, ...]]


@dataclass(frozen=True, slots=True)
class Room:
    """What a session that holds prompts once takes: places for ``prefixes`` of ``prompt`` tokens at most, and ``own``
    tokens of each row behind its prefix."""

    prefixes: int
    prompt: int
    own: int

    def or_more(self, other: Room | None) -> Room:
        """What both take."""
        if other is None:
            return self
        return Room(max(self.prefixes, other.prefixes), max(self.prompt, other.prompt), max(self.own, other.own))


class PrefixBook:
    """The places of ``count`` prefixes, prompts but for their last token; one that no row needs stays known until its
    place is taken."""

    def __init__(self, count: int) -> None:
        self._count = count
        self._places: dict[Key, int] = {}

    def forget(self) -> None:
        """Nothing is held any more."""
        self._places.clear()

    def seat(self, rows: Sequence[Key], needed: Collection[int]) -> tuple[list[int], dict[int, Key]]:
        """-> each row's place, and what is to be read into places.

        ``needed``: places that other rows begin with.

        Raises:
            CacheMemoryError: more prefixes than there are places.
        """
        lacking = [key for key in dict.fromkeys(rows) if key not in self._places]
        taken = {*needed, *(self._places[key] for key in rows if key in self._places)}
        free = [place for place in range(self._count) if place not in taken]
        if len(free) < len(lacking):
            raise CacheMemoryError(
                f"{len(lacking)} more prompts do not fit {len(free)} of {self._count} places: decode fewer rows at once"
            )
        read = dict(zip(free, lacking, strict=False))
        self._places = {key: place for key, place in self._places.items() if place not in read}
        self._places.update({key: place for place, key in read.items()})
        return [self._places[key] for key in rows], read


def room_for(
    prompts: Sequence[Sequence[Tensor]],
    activations: Sequence[Activation | None],
    ordinary: Mapping[int, Sequence[object]],
    slots: int,
    behind: int,
) -> Room:
    """What a session needs for S lists of B prompts on the host, in so many ``slots`` at a time, with up to ``behind``
    tokens after each.

    ``ordinary``: what tells the prefixes of streams apart that read the prompt with an adapter, for each row; the
    others' are the base's.
    """
    rows: list[set[object]] = [set() for _ in prompts[0]]
    longest = own = 0
    for stream, (texts, activation) in enumerate(zip(prompts, activations, strict=True)):
        for row, prompt in enumerate(texts):
            ids = tuple(prompt.tolist())
            rows[row].add(((stream, ordinary[stream][row]) if stream in ordinary else -1, ids))
            longest = max(longest, len(ids) - 1)
            own = max(own, 1 if activation is None else activation.awake(ids))
    return Room(min(len(set().union(*rows)), slots * max(map(len, rows))), longest, own + behind)
