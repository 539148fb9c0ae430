"""One thread at a time on a module.

A forward pass through transformers alters its module for as long as it lasts: adapters go on or off, attention becomes
ours, dropout stops. Another thread's pass in between would be another model's, and whoever looks at the module to
decide how it is run would see what is there for that pass alone.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Lock, RLock
from typing import Any
from weakref import WeakKeyDictionary

from torch import nn

_TURNS: WeakKeyDictionary[nn.Module, Any] = WeakKeyDictionary()
_GUARD = Lock()


def turn(module: nn.Module) -> Any:
    """The module's lock, which its thread may take again; every stream and decoder on that module has the same."""
    with _GUARD:
        return _TURNS.setdefault(module, RLock())


@contextmanager
def alone_with(modules: Iterable[nn.Module]) -> Iterator[None]:
    """A block in which no other thread alters any of them. All take several in one order, so that none waits for
    ever."""
    with ExitStack() as stack:
        for lock in sorted({turn(module) for module in modules}, key=id):
            stack.enter_context(lock)
        yield
