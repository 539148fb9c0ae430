"""The launches around a residual stream, specialised by Triton as for a GPU and compiled without one."""

import itertools
import re

import pytest
import torch
from compiled_launches import CARDS, compile_only, copies, cut_for, first, in_registers, sass, swept
from triton.compiler import CompiledKernel

from bench.kernel_tables import add_call, make_residual, normed_call
from genarm_kernels.layer import embed
from genarm_kernels.layer.cut import STEP_BYTES, configuration

BF16 = torch.bfloat16


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """Every kernel that a call would have launched."""
    monkeypatch.setattr(embed, "INTERPRETED", True)
    return compile_only(monkeypatch)


# Rows and the layer's, registers at most. 128 threads of 128 leave an SM four programs, of 168 three.
NORMED = [(1, 6192, 128), (16, 28768, 168), (16, 6192, 128), (1, 28768, 168), (16, 128256, 168)]


@pytest.mark.parametrize(("case", "capability"), first([(NORMED[0], 90)], itertools.product(NORMED, (80, 90, 100))))
def test_a_norm_in_a_product_s_input_keeps_to_registers(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, case: tuple[int, int, int], capability: int
) -> None:
    cut_for(capability, monkeypatch)
    R, M, registers = case
    normed_call(R, M)
    kernel = launched[-1]
    tile = configuration(R, M, 4096, 2, CARDS[capability], normed=True)
    in_registers(kernel, registers, f"linear_kernel, normed, {tile.ROWS} × {tile.BLOCK_N}")
    assert kernel.metadata.shared <= CARDS[capability].shared_per_program
    # W and x are read once, 16 bytes at a time, past registers; what waits for memory are the first step's sums.
    found = copies(kernel)
    assert found.pop("LDGSTS.E.BYPASS.128") == (tile.BLOCK_N + tile.ROWS) * STEP_BYTES // (128 * 16)
    assert set(found) <= {"LDGSTS.E", "LDG.E.128"}


# Rows, the layer's, columns of x, rank.
ADDED = [(1, 4096, 4096, 16), (1, 4096, 4096, 0), (16, 4096, 14336, 16), (16, 4096, 4096, 64), (8, 16384, 4096, 16)]


@pytest.mark.parametrize(("case", "capability"), first([(ADDED[0], 90)], itertools.product(ADDED, (80, 90, 100))))
def test_a_product_that_is_added_keeps_to_registers(
    launched: list[CompiledKernel],
    monkeypatch: pytest.MonkeyPatch,
    case: tuple[int, int, int, int],
    capability: int,
) -> None:
    cut_for(capability, monkeypatch)
    add_call(*case)
    kernel = launched[-1]
    in_registers(kernel, 168, f"{kernel.name}, rank {case[3]}")
    assert kernel.metadata.shared <= CARDS[capability].shared_per_program
    # A's part of the product says that it is there, and B's waits for it, where there are adapters alone.
    assert bool(re.search(r"\b(?:ATOMG|ATOM|RED)\.", sass(kernel))) == bool(case[3])


@pytest.mark.parametrize(("N", "capability"), first([(4096, 90)], itertools.product((1024, 4096, 5120), (80, 90, 100))))
def test_what_begins_a_residual_keeps_to_registers(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, N: int, capability: int
) -> None:
    cut_for(capability, monkeypatch)
    make_residual(1, N)
    in_registers(launched[-1], 64)


@pytest.mark.parametrize("rank", [swept(0), swept(16)])
def test_another_number_of_rows_compiles_nothing(launched: list[CompiledKernel], rank: int) -> None:
    for R in (1, 2, 7, 8):
        normed_call(R, 1024, 512)
        add_call(R, 512, 1024, rank)
    assert len({kernel.hash for kernel in launched}) == 3
