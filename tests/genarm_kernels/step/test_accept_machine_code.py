"""Launches of a tail with drafts, specialised by Triton as for a GPU and compiled without one."""

from __future__ import annotations

from typing import Any

import accept_cases as cases
import pytest
import torch
from compiled_launches import compile_only, in_registers, on, swept
from triton.compiler import CompiledKernel

import genarm_kernels
from genarm_kernels.step import accept


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """Every kernel that a call would have launched."""
    monkeypatch.setattr(accept, "INTERPRETED", True)
    return compile_only(monkeypatch)


def take(B: int, Q: int, S: int = 0, L: int = 0, E: int = 4, **options: Any) -> None:
    texts = cases.make_texts([[0]] * B, Q, torch.zeros(S, L, dtype=torch.int64), (3,) * E, **options)
    sample = cases.make_draws([[0] * Q] * B, None, options.get("kept", False))
    proposed = torch.zeros(B, dtype=torch.int64)
    genarm_kernels.accept(sample, torch.zeros(B, Q - 1, dtype=torch.int64), proposed, texts)


EVERYTHING: dict[str, Any] = {"seen": True, "kept": True}


@pytest.mark.parametrize(
    ("Q", "options"), [swept(1, EVERYTHING), swept(2, EVERYTHING), swept(8, EVERYTHING), swept(8, {}), swept(4, {})]
)
def test_a_tail_with_drafts_is_one_launch_in_registers(
    launched: list[CompiledKernel], Q: int, options: dict[str, Any]
) -> None:
    take(5, Q, 4, 4, **options)
    (kernel,) = launched
    in_registers(kernel, 128)


def test_other_sizes_compile_nothing(launched: list[CompiledKernel]) -> None:
    """Nor do they take more registers: loops over ends are as long as they are at run time."""
    for B, Q, S, L, E in ((1, 4, 0, 0, 0), (2, 3, 1, 1, 1), (33, 4, 4, 4, 4), (64, 3, 32, 64, 32), (16, 4, 16, 16, 16)):
        take(B, Q, S, L, E, **EVERYTHING)
    assert len(launched) == 5 and len({kernel.hash for kernel in launched}) == 1
    in_registers(launched[0], 128)


@pytest.mark.parametrize("capability", [swept(80), swept(100)])
def test_it_compiles_elsewhere(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    on(capability, monkeypatch)
    take(5, 4, 4, 4, **EVERYTHING)
    in_registers(launched[-1], 128)
