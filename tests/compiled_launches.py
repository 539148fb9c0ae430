"""What tests ask of kernels that are compiled without a device, as bench/compiled.py compiles them.

What is shipped most is compiled in every run; a `swept` case by `make kernels-report` alone.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import pytest
from compiler_bounds import most
from triton.compiler import CompiledKernel

from bench.compiled import compile_only, loads, loops, multiplying_loop, on, sass
from bench.machine_code import MachineCode, read

__all__ = [
    "SHARED_BYTES", "compile_only", "first", "in_registers", "loads", "loops", "multiplying_loop", "on", "sass",
    "swept",
]  # fmt: skip

# Shared memory that a program may have, by compute capability.
SHARED_BYTES = {80: 166912, 90: 232448, 100: 232448}


def swept(*values: Any) -> Any:
    return pytest.param(*values, marks=pytest.mark.sweep)


def first(usual: list[Any], every: Iterable[Any]) -> list[Any]:
    """The usual cases, and those of all others that are swept."""
    return [*usual, *(swept(*case) for case in every if case not in usual)]


def in_registers(kernel: CompiledKernel, registers: int = 255, name: str = "") -> MachineCode:
    """What the machine code says, once nothing spills and a lane has at most so many registers, as far as
    compiler_bounds has no other bound for a kernel of this name, by default that of its function."""
    code, name, capability = read(kernel), name or kernel.name, kernel.metadata.target.arch
    spilled = most(name, "spilled", 0, capability)
    assert code.stack <= spilled and (code.local == 0 or spilled), f"{name} spills {code.stack} bytes"
    assert 0 < code.registers <= most(name, "registers", registers, capability)
    return code
