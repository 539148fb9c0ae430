"""What Triton would compile a launcher's kernels for, without compiling them."""

from __future__ import annotations

import pytest
from compiled_launches import on
from torch import Tensor
from triton.runtime import driver
from triton.runtime.jit import JITFunction

Specialisation = tuple[str, str]


def specialised(monkeypatch: pytest.MonkeyPatch) -> list[Specialisation]:
    """From here on every kernel that a call would have launched is left out, and added to this list: its name, and what
    Triton takes of its arguments into the key of what it compiled."""
    found: list[Specialisation] = []

    def note(self: JITFunction, *arguments: object, grid: object, warmup: bool, **keywords: object) -> None:
        *_, bind = self.device_caches[driver.active.get_current_device()]
        found.append((self.fn.__name__, str(bind(*arguments, **keywords)[1])))

    monkeypatch.setattr(JITFunction, "run", note)
    on(90, monkeypatch)
    return found


def at_addresses(values: Tensor) -> tuple[Tensor, Tensor]:
    """The same values at a multiple of 16 bytes, and at another address."""
    memory = values.new_empty(values.numel() + 1)
    unaligned = memory[1:].view(values.shape).copy_(values)
    assert values.data_ptr() % 16 == 0 and unaligned.data_ptr() % 16 != 0
    return values, unaligned
