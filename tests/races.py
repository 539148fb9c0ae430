"""What a launch's programs read and write of each other's, noted as Triton's interpreter runs one after the other.

On a GPU they run in any order: what one of them writes, no other may read or write, unless both have added to one
counter in between, the writer after its access and the other before its own. Atomic operations may meet each other.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import pytest
from triton.runtime import interpreter

Program = tuple[int, int, int]


class Watch:
    """Every access of the launch that runs, by address; what is out of order is added to `races`."""

    def __init__(self) -> None:
        self.races: list[tuple[int, Program, Program, str]] = []
        self.kernels: set[str] = set()
        self.begin()

    def begin(self) -> None:
        self._now = 0
        self._plain: dict[int, dict[Program, tuple[int, bool]]] = defaultdict(dict)  # when last, ever written
        self._atomic: dict[int, dict[Program, list[int]]] = defaultdict(lambda: defaultdict(list))

    def access(self, program: Program, addresses: Iterable[int], writes: bool) -> None:
        self._now += 1
        for address in addresses:
            seen = self._plain[address]
            for other, (when, wrote) in seen.items():
                if other != program and (writes or wrote) and not self._in_order(other, when, program):
                    self.races.append((address, other, program, "write" if writes else "read"))
            for other, times in self._atomic.get(address, {}).items():
                if other != program and not self._in_order(other, times[-1] - 1, program):
                    self.races.append((address, other, program, "plain beside atomic"))
            seen[program] = (self._now, writes or seen.get(program, (0, False))[1])

    def atomic(self, program: Program, addresses: Iterable[int]) -> None:
        self._now += 1
        for address in addresses:
            for other, (when, _) in self._plain.get(address, {}).items():
                if other != program and not self._in_order(other, when, program):
                    self.races.append((address, other, program, "atomic beside plain"))
            self._atomic[address][program].append(self._now)

    def _in_order(self, first: Program, when: int, second: Program) -> bool:
        """Whether `second` has added to a counter after `first` did, which did so after `when`."""
        return any(
            release > when and acquired[-1] > release
            for counter in self._atomic.values()
            if (acquired := counter.get(second)) and first in counter
            for release in counter[first]
        )


def watched(monkeypatch: pytest.MonkeyPatch) -> Watch:
    """From here on the interpreter's launches are watched."""
    watch, own = Watch(), interpreter._interpreter
    builder = interpreter.interpreter_builder

    def addresses(pointers: np.ndarray, mask: np.ndarray) -> list[int]:
        pointers, mask = np.broadcast_arrays(pointers, mask)
        return list(set(pointers[mask.astype(bool)].astype(np.int64).ravel().tolist()))

    def load(pointers: np.ndarray, mask: np.ndarray, *rest: Any) -> Any:
        watch.access(builder.grid_idx, addresses(pointers, mask), writes=False)
        return own.load(pointers, mask, *rest)

    def store(pointers: np.ndarray, values: np.ndarray, mask: np.ndarray) -> Any:
        watch.access(builder.grid_idx, addresses(pointers, mask), writes=True)
        return own.store(pointers, values, mask)

    def atomic_rmw(operation: Any, pointers: np.ndarray, values: np.ndarray, mask: np.ndarray, order: Any) -> Any:
        watch.atomic(builder.grid_idx, addresses(pointers, mask))
        return own.atomic_rmw(operation, pointers, values, mask, order)

    def launch(
        self: Any, *arguments: Any, kept: Callable[..., None] = interpreter.GridExecutor.__call__, **more: Any
    ) -> None:
        watch.begin()
        watch.kernels.add(self.fn.__name__)
        kept(self, *arguments, **more)

    replaced = {"load": load, "store": store, "atomic_rmw": atomic_rmw}
    others = {name: getattr(own, name) for name in dir(own) if not name.startswith("__")}
    monkeypatch.setattr(
        interpreter, "_interpreter", type("Watching", (), {n: staticmethod(f) for n, f in (others | replaced).items()})
    )
    monkeypatch.setattr(interpreter.GridExecutor, "__call__", launch)
    return watch
