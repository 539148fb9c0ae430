"""The launches of resampling and following, specialised by Triton as for a GPU and compiled without one."""

from __future__ import annotations

import particle_cases as cases
import pytest
import torch
from compiled_launches import compile_only, first, in_registers, loads, on, swept
from triton.compiler import CompiledKernel

import genarm_kernels
from genarm_kernels import noise
from genarm_kernels.particles import follow
from genarm_kernels.particles import resample as resampling

BF16 = torch.bfloat16


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """Every kernel that a call would have launched."""
    for module in (follow, resampling, noise):
        monkeypatch.setattr(module, "INTERPRETED", True)
    return compile_only(monkeypatch)


def resample(P: int = 2, N: int = 16, below: float = 0.5) -> None:
    on_ = torch.ones(P, dtype=torch.bool)
    genarm_kernels.resample(cases.make_weights(P, N), cases.make_uniforms(P), on_, below)


def follow_rows(R: int = 3, H: int = 2, T: int = 5, D: int = 128, dtype: torch.dtype = BF16, offset: int = 0) -> None:
    cache = cases.make_cache(2, R, H, T, D, dtype, "cpu", offset)
    genarm_kernels.follow_rows(cache, torch.zeros(R).long(), torch.zeros(R).int(), torch.ones(R).int())


@pytest.mark.parametrize(("N", "most"), [(16, 64), swept(64, 96), swept(300, 96), swept(2048, 168), swept(4096, 255)])
def test_a_system_keeps_to_registers(launched: list[CompiledKernel], N: int, most: int) -> None:
    resample(N=N)
    in_registers(launched[-1], most)


@pytest.mark.parametrize(
    ("dtype", "D", "offset", "wide"),
    first([(BF16, 128, 0, True)],
          [(BF16, 80, 1, False), (torch.float32, 128, 0, True), (torch.float16, 64, 0, True), (BF16, 3, 0, False),
           (BF16, 64, 8, True)]),
)  # fmt: skip
def test_tails_come_in_16_byte_loads_where_heads_allow_it(
    launched: list[CompiledKernel], dtype: torch.dtype, D: int, offset: int, wide: bool
) -> None:
    follow_rows(D=D, dtype=dtype, offset=offset)
    in_registers(launched[-1], 64 if wide else 128)
    found = loads(launched[-1])
    # Behind them the row's origin, start and length, each once.
    assert found["LDG.E.128"] == (follow.BLOCK_WORDS * 4 // (32 * follow.WARPS * 16) if wide else 0)
    assert (found["LDG.E.U16"] > 0) != wide


def test_other_sizes_compile_nothing(launched: list[CompiledKernel]) -> None:
    for P, N in ((2, 16), (16, 17), (1, 32), (3, 1)):
        resample(P, N)
    assert len({kernel.hash for kernel in launched}) == 1
    launched.clear()
    for R, H, T in ((3, 2, 5), (16, 1, 16), (1, 16, 33)):
        follow_rows(R, H, T)
    assert len({kernel.hash for kernel in launched}) == 1


def test_uniforms_come_by_one_launch(launched: list[CompiledKernel]) -> None:
    for R, N in ((3, 1), (16, 1)):
        zeros = torch.zeros(R, dtype=torch.int64)
        noise.uniforms(zeros, zeros, torch.zeros(1, N, dtype=torch.int64), noise.RESAMPLE)
    assert len(launched) == 2 and len({kernel.hash for kernel in launched}) == 1
    in_registers(launched[-1], 64)


@pytest.mark.parametrize("capability", [swept(80), swept(100)])
def test_they_compile_elsewhere(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    on(capability, monkeypatch)
    for N in (16, 4096):
        resample(N=N)
        in_registers(launched[-1])
    follow_rows()
    in_registers(launched[-1])
