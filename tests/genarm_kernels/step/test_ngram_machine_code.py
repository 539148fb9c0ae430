"""Prompt lookup's launches, specialised by Triton as for a GPU and compiled without one."""

from __future__ import annotations

import pytest
import torch
from compiled_launches import compile_only, in_registers, on, swept
from triton.compiler import CompiledKernel

import genarm_kernels
from genarm_kernels.step import ngram


@pytest.mark.parametrize("capability", [90, swept(80), swept(100)])
def test_texts_of_every_length_are_looked_up_by_two_launches_in_registers(
    monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    monkeypatch.setattr(ngram, "INTERPRETED", True)
    launched: list[CompiledKernel] = compile_only(monkeypatch)
    on(capability, monkeypatch)
    # Addresses of positions are at random: what is compiled does not depend on them.
    for B, T, begin in ((1, 4096, 0), (5, 3001, 1)):
        genarm_kernels.ngram_draft(torch.zeros(B, T).long(), torch.zeros(B + 1).long()[begin : B + begin], 7)
    assert len(launched) == 4 and len({kernel.hash for kernel in launched}) == 2
    for kernel in launched[:2]:
        in_registers(kernel, 80)
