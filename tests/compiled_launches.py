"""What tests ask of kernels that are compiled without a device, as bench/compiled.py compiles them.

What is shipped most is compiled in every run; a `swept` case by `make kernels-report` alone.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

import pytest
from compiler_bounds import most
from triton.compiler import CompiledKernel

from bench.compiled import compile_only, loads, loops, multiplying_loop, on, sass
from bench.machine_code import MachineCode, read
from genarm_kernels import card

__all__ = [
    "CARDS", "compile_only", "copies", "cut_for", "first", "in_registers", "loads", "loops", "multiplying_loop", "on",
    "sass", "swept",
]  # fmt: skip

# A card of each compute capability that kernels are compiled for.
CARDS = {80: card.CARDS["A100"], 90: card.CARDS["H200"], 100: card.CARDS["B200"]}


def cut_for(capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Launches are cut for that card, and compiled for it."""
    on(capability, monkeypatch)
    monkeypatch.setattr(card, "card_of", lambda device: CARDS[capability])


def copies(kernel: CompiledKernel) -> dict[str, int]:
    """How the innermost loop that multiplies reads memory."""
    return {name: count for name, count in multiplying_loop(kernel).items() if re.match(r"LDGSTS|LDG\b|LDG\.", name)}


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
