"""A launcher's own calls, specialised by Triton as for a GPU and compiled without one, and their machine code.

What is shipped most is compiled in every run; a `swept` case by `make kernels-report` alone.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from types import SimpleNamespace
from typing import Any

import pytest
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from bench.machine_code import MachineCode, _dump, _instructions, read

# Shared memory that a program may have, by compute capability.
SHARED_BYTES = {80: 166912, 90: 232448, 100: 232448}


def swept(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.sweep)


def first(usual: list[Any], every: Iterable[Any]) -> list[Any]:
    """The usual cases, and those of all others that are swept."""
    return [*usual, *(swept(*case) for case in every if case not in usual)]


def compile_only(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """From here on every kernel that a call would have launched is compiled, for 90 unless `on` says otherwise, and
    added to this list."""
    kernels: list[CompiledKernel] = []
    run = JITFunction.run

    def compile_launch(self: JITFunction, *arguments: object, warmup: bool, **keywords: object) -> CompiledKernel:
        kernels.append(run(self, *arguments, warmup=True, **keywords))
        return kernels[-1]

    monkeypatch.setattr(JITFunction, "run", compile_launch)
    on(90, monkeypatch)
    return kernels


def on(capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile for a device of this capability."""
    target = GPUTarget("cuda", capability, 32)
    fake = SimpleNamespace(
        get_current_device=lambda: capability, get_current_target=lambda: target, get_current_stream=lambda _: 0
    )
    monkeypatch.setattr(driver, "_active", fake)


def in_registers(kernel: CompiledKernel, most: int = 255) -> MachineCode:
    """What the machine code says, once nothing spills and a lane has at most so many registers."""
    code = read(kernel)
    assert code.stack == code.local == 0
    assert 0 < code.registers <= most
    return code


def loads(kernel: CompiledKernel) -> Counter[str]:
    """How memory is read: into registers (LDG) or into shared memory past them (LDGSTS)."""
    names = (_name(text) for _, text in _listing(kernel))
    return Counter(name for name in names if name.startswith("LDG") and name != "LDGDEPBAR")


def loops(kernel: CompiledKernel) -> list[Counter[str]]:
    """The instructions between each backward branch and its target."""
    listing = _listing(kernel)
    branches = [(at, target) for at, text in listing for target in re.findall(r"\bBRA\b.*?(0x[0-9a-f]+)", text)]
    return [
        Counter(_name(text) for at, text in listing if int(head, 16) <= at <= end)
        for end, head in branches
        if int(head, 16) < end
    ]


def multiplying_loop(kernel: CompiledKernel) -> Counter[str]:
    """The innermost loop that multiplies matrices."""
    bodies = [body for body in loops(kernel) if any(name.startswith("HMMA") for name in body)]
    return min(bodies, key=Counter.total)


def sass(kernel: CompiledKernel) -> str:
    return _dump(kernel.asm["cubin"])[0]


def _listing(kernel: CompiledKernel) -> list[tuple[int, str]]:
    return _instructions(sass(kernel))


def _name(text: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0]
