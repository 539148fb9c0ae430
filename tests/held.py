"""The memory behind tensors, and all tensors that objects hold."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from types import FunctionType, MethodType, ModuleType
from typing import Any

from torch import Tensor


def storages(tensors: Any) -> dict[int, int]:
    """Bytes of each different storage behind some tensors."""
    found = [tensor.untyped_storage() for tensor in tensors]
    return {storage.data_ptr(): storage.nbytes() for storage in found}


def size(tensors: Any) -> int:
    return sum(tensor.numel() * tensor.element_size() for tensor in tensors)


def all_tensors(*roots: Any) -> Iterator[Tensor]:
    """Every tensor that some objects hold, through containers and attributes."""
    seen: set[int] = set()
    todo = list(roots)
    while todo:
        one = todo.pop()
        if id(one) in seen or isinstance(one, FunctionType | MethodType | ModuleType | type):
            continue
        seen.add(id(one))
        if isinstance(one, Tensor):
            yield one.data
        elif isinstance(one, Mapping):
            todo += one.values()
        elif isinstance(one, list | tuple | set | frozenset):
            todo += one
        else:
            todo += vars(one).values() if hasattr(one, "__dict__") else ()
            todo += (getattr(one, name) for name in getattr(one, "__slots__", ()) if hasattr(one, name))


def held_bytes(*roots: Any) -> int:
    return sum(storages(all_tensors(*roots)).values())
