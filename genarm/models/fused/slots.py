"""Which rows of a fused backbone decode with which preference: folded adapters in slots beside those of plain streams.

A slot is an adapter among the fused linears' rows, written anew when its preference changes. No slot is written over
that a running batch reads. There are as many slots as the batches so far had different preferences at once, rounded up
to a power of two: one more than there are lays the weights' rows out anew, and captured steps with them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from threading import RLock

from ...errors import InvalidArgumentError
from ...request.preferences import Preference
from ..causal import CausalModel
from ..preference_adapters import PreferenceAdapter
from .linear import Pair
from .streams import StreamLora

# {place of a conditioned stream: each row's slot}
RowSlots = Mapping[int, Sequence[int]]


@dataclass(slots=True)
class Slot:
    """An adapter of a conditioned stream for one preference, None before it has had one."""

    stream: int
    preference: Preference | None
    lora: StreamLora
    users: int = 0


class PreferenceSlots:
    """The slots of a backbone whose streams are ``models``."""

    def __init__(self, models: Sequence[CausalModel]) -> None:
        self._names = [model.name for model in models]
        self._adapters = {
            at: one.adapter for at, one in enumerate(models) if isinstance(one.adapter, PreferenceAdapter)
        }
        self._slots: list[Slot] = []
        self._lock = RLock()

    def loras(self) -> list[StreamLora]:
        """Every slot's adapter as it is now."""
        with self._lock:
            return [slot.lora for slot in self._slots]

    @contextmanager
    def held(self, preferences: Mapping[int, Sequence[Preference]]) -> Iterator[RowSlots]:
        """A block in which each row's preference of each conditioned stream has a slot."""
        with self._lock:
            found = {stream: self._take(stream, rows) for stream, rows in preferences.items()}
        taken = [slot for slots in found.values() for slot in set(slots)]
        try:
            yield found
        finally:
            with self._lock:
                for slot in taken:
                    self._slots[slot].users -= 1

    def row_adapters(self, adapters: Sequence[int], batch: int, given: RowSlots | None) -> list[int]:
        """The adapter of each of S·B rows, −1 for none, of ``adapters``: the streams' and then the slots'. Rows beyond
        those ``given`` are idle, as the first.

        Raises:
            InvalidArgumentError: for a stream that is conditioned on preferences and was given none.
        """
        count, found = len(self._names), []
        for place, name in enumerate(self._names):
            slots = None if given is None else given.get(place)
            if slots is None and place in self._adapters:
                raise InvalidArgumentError(
                    f"{name} is conditioned on a preference, and none was given: pass preferences"
                )
            rows = [adapters[place]] * batch if slots is None else [adapters[count + slot] for slot in slots]
            found += rows + rows[:1] * (batch - len(rows))
        return found

    def _take(self, stream: int, rows: Sequence[Preference]) -> list[int]:
        wanted = dict.fromkeys(rows)
        known = {slot.preference: at for at, slot in enumerate(self._slots) if slot.stream == stream}
        found = {preference: known[preference] for preference in wanted if preference in known}
        for at in found.values():
            self._slots[at].users += 1
        for preference in wanted:
            if preference not in found:
                found[preference] = self._free(stream)
                self._fill(self._slots[found[preference]], preference)
        return [found[preference] for preference in rows]

    def _free(self, stream: int) -> int:
        """A slot of the stream's that nobody reads; where there is none, as many new ones as it has."""
        own = [at for at, slot in enumerate(self._slots) if slot.stream == stream]
        free = [at for at in own if not self._slots[at].users]
        if free:
            return free[0]
        self._slots += [Slot(stream, None, self._lora(stream, None)) for _ in range(max(1, len(own)))]
        return len(self._slots) - max(1, len(own))

    def _fill(self, slot: Slot, preference: Preference) -> None:
        slot.preference, slot.lora = preference, self._lora(slot.stream, preference)
        slot.users += 1

    def _lora(self, stream: int, preference: Preference | None) -> StreamLora:
        """Live, and in memory of its own, so that no other adapter is taken for it when it changes."""
        adapter = self._adapters[stream]
        count = len(adapter.objectives.names)
        folded = adapter.fold(preference or (1.0 / count,) * count).layers
        return StreamLora({name: Pair(down, up.clone()) for name, (down, up, _) in folded.items()}, live=True)
