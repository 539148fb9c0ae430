"""skinny_linear's own launches, specialised by Triton as for a GPU and compiled without one."""

import re

import pytest
import torch
from compiled_launches import CARDS, compile_only, copies, cut_for, first, in_registers, multiplying_loop, swept
from triton.compiler import CompiledKernel

from genarm_kernels import card
from genarm_kernels.layer import linear
from genarm_kernels.layer.cut import STEP_BYTES, Configuration, configuration

# Registers at most, by rows of a tile: x's, W's. 128 threads of 168 leave an SM three programs.
REGISTERS = {(8, 32): 64, (16, 32): 80, (32, 32): 128, (64, 32): 200, (8, 64): 96, (16, 64): 128, (32, 64): 200}


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """Every kernel that a call would have launched on `capability`."""
    kernels = compile_only(monkeypatch)
    cut_for(90, monkeypatch)
    return kernels


def call(R: int, N: int, H: int, dtype: torch.dtype = torch.bfloat16, bias: bool = False) -> Configuration:
    x, weight = torch.empty(R, H, dtype=dtype), torch.empty(N, H, dtype=dtype)
    linear.linear_by_kernel(x, weight, torch.empty(N, dtype=dtype) if bias else None)
    return configuration(R, N, H, dtype.itemsize, card.card_of(x.device))


# The engine's weights carry adapters' shrinks below: N is no multiple of a tile.
LAYERS = [(4096, 4096), (6192, 4096), (28768, 4096), (1024, 3072)]
USUAL = [(1, 4096, 4096), (16, 28768, 4096), (64, 4096, 4096)]


@pytest.mark.parametrize(("R", "N", "H"), first(USUAL, ((R, *layer) for R in (1, 16, 32, 64) for layer in LAYERS)))
def test_weights_come_in_16_byte_copies_and_nothing_spills(
    launched: list[CompiledKernel], R: int, N: int, H: int
) -> None:
    cut = call(R, N, H)
    (kernel,) = launched
    loop = multiplying_loop(kernel)
    in_registers(kernel, REGISTERS[cut.ROWS, cut.BLOCK_N])
    # A step of W and of x, by 128 threads, 16 bytes each; no other load from global memory.
    assert copies(kernel) == {"LDGSTS.E.BYPASS.128": (cut.BLOCK_N + cut.ROWS) * STEP_BYTES // (128 * 16)}
    # Nothing in shared memory is read twice: a matrix load moves 512 bytes.
    reads = sum(count for name, count in loop.items() if name.startswith("LDSM"))
    assert reads == (cut.BLOCK_N + cut.ROWS) * STEP_BYTES // linear.WARPS // 512
    assert kernel.metadata.shared == cut.depth * (cut.BLOCK_N + cut.ROWS) * STEP_BYTES
    assert kernel.metadata.shared <= CARDS[90].shared_per_program


@pytest.mark.parametrize("R", [1, swept(16), swept(32), 64])
def test_an_element_is_summed_in_one_order_for_every_row_count(launched: list[CompiledKernel], R: int) -> None:
    # Row independence rests on it: one multiply-add of 16 columns after the other, a warp a slice, then the warps.
    call(R, 4096, 4096)
    call(R, 28672, 4096)
    for kernel in launched:
        text = kernel.asm["ttgir"]
        (layout,) = re.findall(r"^#mma = #ttg.nvidia_mma<\{(.*)\}>$", text, re.M)
        assert "warpsPerCTA = [4, 1, 1], instrShape = [1, 16, 8]" in layout
        assert {name for name in multiplying_loop(kernel) if name.startswith("HMMA")} == {"HMMA.16816.F32.BF16"}
        (reduction,) = re.findall(r"\"tt\.reduce\".*?axis = (\d).*?\(tensor<4x\d+x\d+xf32, (#\w+)>", text, re.S)
        assert reduction == ("0", "#mma")


@pytest.mark.parametrize("R", [1, swept(16), swept(32), 64])
def test_rows_in_shared_memory_lie_in_different_banks(launched: list[CompiledKernel], R: int) -> None:
    # Eight rows of a slice that a matrix load reads: neighbours of 128 bytes, swizzled.
    call(R, 4096, 4096)
    layouts = re.findall(r"^#shared\d* = #ttg\.(.*)$", launched[0].asm["ttgir"], re.M)
    assert layouts == ["swizzled_shared<{vec = 8, perPhase = 1, maxPhase = 8, order = [2, 1, 0]}>"]


@pytest.mark.parametrize(
    ("dtype", "N"),
    [(torch.float32, 512), swept(torch.float16, 6192), swept(torch.float16, 512), swept(torch.float32, 6192)],
    ids=str,
)
def test_other_dtypes_and_parts_keep_to_registers(launched: list[CompiledKernel], dtype: torch.dtype, N: int) -> None:
    cut = call(32, N, 14336, dtype, bias=True)
    assert (cut.splits > 1) == (N == 512)
    assert len(launched) == (2 if N == 512 else 1)
    for kernel in launched:
        in_registers(kernel)


def test_any_width_and_alignment_compiles(launched: list[CompiledKernel]) -> None:
    call(3, 70, 301, bias=True)
    for kernel in launched:
        in_registers(kernel)
    call(9, 4096, 4096 + 16)
    # A last step of fewer columns is masked sixteen bytes at a time.
    assert {name for name in multiplying_loop(launched[-1]) if "LDG" in name} == {"LDGSTS.E.BYPASS.128", "LDGDEPBAR"}


@pytest.mark.parametrize("capability", [80, swept(100)])
def test_other_devices_get_it_too(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    cut_for(capability, monkeypatch)
    for R in (1, 64):
        call(R, 6192, 4096)
    for kernel in launched:
        assert kernel.metadata.target.arch == capability
        assert kernel.metadata.shared <= CARDS[capability].shared_per_program


def test_another_row_count_of_a_tile_compiles_nothing(launched: list[CompiledKernel]) -> None:
    for R in (1, 2, 7, 8):
        call(R, 4096, 4096)
    assert len({kernel.hash for kernel in launched}) == 1


def test_rows_are_addressed_in_64_bits(launched: list[CompiledKernel]) -> None:
    call(16, 4096, 4096)
    text = launched[0].asm["ttir"]
    products = re.findall(r"arith\.muli %\w+, %\w+ : tensor<1x(?:32|16)x1x(i\d+)>", text)
    assert products and set(products) == {"i64"}
    assert re.search(r"arith\.muli %\w+, %\w+ : tensor<1x16xi64>", text)
