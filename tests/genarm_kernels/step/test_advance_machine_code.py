"""The tail's launches, specialised by Triton as for a GPU and compiled without one."""

from __future__ import annotations

from typing import Any

import pytest
import tail_cases as cases
import torch
from compiled_launches import compile_only, in_registers, on, swept
from triton.compiler import CompiledKernel

import genarm_kernels
from genarm_kernels.step import advance


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """Every kernel that a call would have launched."""
    monkeypatch.setattr(advance, "INTERPRETED", True)
    return compile_only(monkeypatch)


def take(B: int, S: int = 0, L: int = 0, E: int = 4, excuse_ended: bool = False, **options: Any) -> None:
    stops = torch.zeros(S, L, dtype=torch.int64)
    progress = cases.make_progress(B, stops, (3,) * E, **options)
    genarm_kernels.advance(cases.make_sample([0] * B, None, options.get("kept", False)), progress, 1, excuse_ended)


EVERYTHING: dict[str, Any] = {"seen": True, "kept": True}


@pytest.mark.parametrize(
    ("excuse_ended", "options"), [(True, EVERYTHING), swept(False, {}), swept(False, {"kept": True})]
)
def test_a_step_s_tail_is_one_launch_in_registers(
    launched: list[CompiledKernel], excuse_ended: bool, options: dict[str, Any]
) -> None:
    take(5, 4, 4, excuse_ended=excuse_ended, **options)
    (kernel,) = launched
    in_registers(kernel, 64)


def test_other_sizes_compile_nothing(launched: list[CompiledKernel]) -> None:
    """Nor do they take more registers: loops over ends are as long as they are at run time."""
    for B, S, L, E in ((1, 0, 0, 0), (2, 1, 1, 1), (33, 4, 4, 4), (64, 32, 64, 32), (16, 16, 16, 16)):
        take(B, S, L, E)
    assert len(launched) == 5 and len({kernel.hash for kernel in launched}) == 1


@pytest.mark.parametrize("capability", [swept(80), swept(100)])
def test_it_compiles_elsewhere(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    on(capability, monkeypatch)
    take(5, 4, 4, excuse_ended=True, **EVERYTHING)
    in_registers(launched[-1], 64)
