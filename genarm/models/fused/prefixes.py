"""Which prompts a session holds once for all rows that begin with them: their places, and the room they take."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain

from torch import Tensor

from ...errors import CacheMemoryError
from ..activation import Activation

# Tokens of a prompt from which on rows that share it take no longer than rows that hold copies.
SHORTEST = 64
# The adapter that reads what rows begin with, −1 for none, and its ids as they lie in memory.
Key = tuple[int, bytes]


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
    """The places of ``count`` prefixes; one that no row needs stays known until its place is taken."""

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
    own = max(
        1 if activation is None else activation.awake(memoryview(prompt.numpy().tobytes()).cast("q"))
        for texts, activation in zip(prompts, activations, strict=True)
        for prompt in texts
    )
    begins = [[prompt[:-1] for prompt in texts] for texts in prompts]
    return Room(_prefixes(begins, ordinary, slots), max(map(len, chain(*begins))), own + behind)


def room_that_pays(
    prompts: Sequence[Sequence[Tensor]], ordinary: Mapping[int, Sequence[object]], slots: int, behind: int
) -> Room | None:
    """The same where no adapter sleeps on prompts, so that they are held whole; None where rows take no more memory
    with a prompt of their own each, or prompts are shorter than SHORTEST."""
    longest = max(map(len, chain(*prompts)))
    if len(prompts[0]) == 1 or longest < SHORTEST:
        return None
    prefixes = _prefixes(prompts, ordinary, slots)
    return Room(prefixes, longest, behind) if prefixes < slots * len(prompts) else None


def _prefixes(texts: Sequence[Sequence[Tensor]], ordinary: Mapping[int, Sequence[object]], slots: int) -> int:
    """How many different ones rows of S streams begin with, in so many slots at a time at most."""
    rows: list[set[object]] = [set() for _ in texts[0]]
    for stream, own in enumerate(texts):
        for row, text in enumerate(own):
            reader = (stream, ordinary[stream][row]) if stream in ordinary else -1
            rows[row].add((reader, text.numpy().tobytes()))
    return min(len(set().union(*rows)), slots * max(map(len, rows)))
