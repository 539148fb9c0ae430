"""Which addresses the kernels read, noted as Triton's interpreter runs them."""

from collections import Counter

import numpy as np
import pytest
from torch import Tensor
from triton.runtime import interpreter


def addresses_read(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Fills as kernels run: how often each address is loaded from."""
    seen: Counter[int] = Counter()
    load = interpreter._interpreter.load

    def recorded(pointers: np.ndarray, mask: np.ndarray, *rest: object) -> object:
        seen.update(pointers[mask].astype(np.int64).tolist())
        return load(pointers, mask, *rest)

    module = type("recording", (), {"load": staticmethod(recorded)})
    for name in dir(interpreter._interpreter):
        if name != "load" and not name.startswith("__"):
            setattr(module, name, getattr(interpreter._interpreter, name))
    monkeypatch.setattr(interpreter, "_interpreter", module)
    return seen


def elements_read(seen: Counter[int], tensor: Tensor) -> Counter[int]:
    """Of a tensor's memory: elements by number, and how often each was loaded."""
    places = {(address - tensor.data_ptr()) // tensor.element_size(): count for address, count in seen.items()}
    return Counter({place: count for place, count in places.items() if 0 <= place < tensor.numel()})
