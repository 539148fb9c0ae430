"""Bounds on machine code by compiler: what one may take is no other's to take."""

from types import SimpleNamespace

import compiled_launches
import compiler_bounds
import pytest
from compiled_launches import in_registers
from compiler_bounds import Other, most

from bench.machine_code import MachineCode


@pytest.fixture(autouse=True)
def bounds(monkeypatch: pytest.MonkeyPatch) -> None:
    here = compiler_bounds.TRITON
    others = (Other(here, "a", "spilled", 16, "…", (80,)), Other("0.1", "a", "registers", 96, "…"))
    monkeypatch.setattr(compiler_bounds, "OTHERS", others)


def test_another_bound_is_for_its_compiler_kernel_figure_and_device_alone() -> None:
    assert most("a", "registers", 64, 90, "0.1") == 96 and most("a", "registers", 128, 90, "0.1") == 128
    assert most("a", "spilled", 0, 80) == 16
    assert most("a", "registers", 64) == most("b", "registers", 64, 90, "0.1") == 64
    assert most("a", "spilled", 0, 90) == most("a", "spilled", 0, 80, "0.1") == 0


@pytest.mark.parametrize(
    ("stack", "registers", "name", "capability", "holds"),
    [(0, 64, "b", 90, True), (16, 64, "a", 80, True), (24, 64, "a", 80, False), (16, 64, "a", 90, False),
     (16, 64, "b", 80, False), (0, 65, "b", 90, False)],
)  # fmt: skip
def test_a_spill_or_a_register_that_is_not_listed_fails(
    monkeypatch: pytest.MonkeyPatch, stack: int, registers: int, name: str, capability: int, holds: bool
) -> None:
    code = MachineCode(registers, stack, stack // 8, 100, plain={})  # type: ignore[arg-type]
    monkeypatch.setattr(compiled_launches, "read", lambda kernel: code)
    kernel = SimpleNamespace(name=name, metadata=SimpleNamespace(target=SimpleNamespace(arch=capability)))
    if holds:
        assert in_registers(kernel, 64) is code
    else:
        with pytest.raises(AssertionError):
            in_registers(kernel, 64)
