"""How the compiled launches around a residual stream load and add, and who waits for whom. What they take at most is
held in test_residual_machine_code.py."""

import re

import pytest
import torch
from compiled_launches import compile_only, copies, first, multiplying_loop, swept
from triton.compiler import CompiledKernel

from bench.kernel_tables import add_call, normed_call
from genarm_kernels import card
from genarm_kernels.layer import embed
from genarm_kernels.layer.cut import SCALE_BYTES, STEP_BYTES, Configuration, configuration

H200, BF16 = card.CARDS["H200"], torch.bfloat16
# Columns of the stream, and rows of one adapter of rank 16 below a layer of Llama-3.1-8B.
HIDDEN, SHRINKS = 4096, 16
THREADS = 128


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """Every kernel that a call would have launched."""
    monkeypatch.setattr(embed, "INTERPRETED", True)
    return compile_only(monkeypatch)


def holds_what_it_was_cut_for(kernel: CompiledKernel, cut: Configuration, rows: int, normed: bool) -> None:
    """So much shared memory, and no more than that a processor has it twice where it has two programs."""
    of_steps = cut.depth * (cut.BLOCK_N + cut.ROWS + normed) * STEP_BYTES
    assert of_steps <= kernel.metadata.shared <= of_steps + SCALE_BYTES * normed
    if -(-rows // cut.BLOCK_N) > H200.processors:
        assert 2 * (kernel.metadata.shared + card.PROGRAM_BYTES) <= H200.shared_per_processor


@pytest.mark.parametrize(
    ("R", "M"), first([(4, 28672 + SHRINKS)], ((R, M) for R in (4, 16) for M in (6144 + SHRINKS, 28672 + SHRINKS)))
)
def test_a_normed_input_is_on_its_way_before_its_scale_is_asked_for(
    launched: list[CompiledKernel], R: int, M: int
) -> None:
    normed_call(R, M, HIDDEN)
    kernel, cut = launched[-1], configuration(R, M, HIDDEN, 2, H200, normed=True)
    # A step of W and of x, 16 bytes for each thread at a time, of the norm's weight 4 bytes. In the first step alone
    # the squares of the rows, by eights.
    assert copies(kernel) == {
        "LDGSTS.E.BYPASS.128": (cut.BLOCK_N + cut.ROWS) * STEP_BYTES // (THREADS * 16),
        "LDGSTS.E": STEP_BYTES // (THREADS * 4),
        "LDG.E.128": cut.ROWS * HIDDEN // 8 * 4 // (THREADS * 16),
    }
    text = kernel.asm["ttgir"]
    assert text.index("ttg.async_copy_global_to_local") < text.index("scf.for") < text.index("tt.load ")
    assert re.search(r"scf\.if[^\n]*\n(?:(?!scf\.yield).*\n)*.*tt\.load ", text), "loaded in every step"
    assert not {name for name in multiplying_loop(kernel) if name.startswith(("LDL", "STL"))}
    holds_what_it_was_cut_for(kernel, cut, M, normed=True)
    assert reduction(kernel, 1) == [4, 32, 4]


@pytest.mark.parametrize(("R", "H"), first([(4, 14336)], ((R, H) for R in (4, 16) for H in (4096, 14336))))
def test_h_is_stored_by_all_before_one_says_so_and_read_behind_the_wait(
    launched: list[CompiledKernel], R: int, H: int
) -> None:
    add_call(R, HIDDEN, H, SHRINKS)
    kernel, cut = launched[-1], configuration(R, HIDDEN + SHRINKS, H, 2, H200)
    assert copies(kernel) == {"LDGSTS.E.BYPASS.128": (cut.BLOCK_N + cut.ROWS) * STEP_BYTES // (THREADS * 16)}
    holds_what_it_was_cut_for(kernel, cut, HIDDEN + SHRINKS, normed=False)
    atomic = "tt.atomic_rmw add, acq_rel, gpu"
    found = re.findall(rf"tt\.store|\b(?:ttg|gpu)\.barrier|{atomic}|cacheModifier = cg", kernel.asm["ttgir"])
    steps = [re.sub(r"\w+\.barrier", "barrier", name) for name in found]
    assert steps[:3] == ["tt.store", "barrier", atomic], "whose program has rows of A"
    # Whether it is there, again and again; one more who has seen it; the last one's two zeros.
    assert steps[3:9] == [atomic] * 3 + ["tt.store"] * 2 + ["cacheModifier = cg"]
    assert len(re.findall(r"atom\S*\.acq_rel\S*", kernel.asm["ptx"])) == 4
    assert reduction(kernel, 2) == [8, 2, 1]


def reduction(kernel: CompiledKernel, axis: int) -> list[int]:
    """How the axis of a sum is laid out: elements of a thread, threads of a warp, warps. It is that of every number of
    rows, or a row's bits would depend on how many others there are."""
    text = kernel.asm["ttgir"]
    found = re.findall(r"\"tt\.reduce\".*?axis = (\d).*?\(tensor<[\dx]+xf32, (#\w+)>", text, re.S)
    (name,) = {layout for number, layout in found if int(number) == axis}
    layout = re.search(rf"^{name} = #ttg.blocked<{{(.*)}}>$", text, re.M)
    assert layout is not None
    each = re.findall(r"(?:sizePerThread|threadsPerWarp|warpsPerCTA) = \[(.*?)\]", layout[1])
    return [int(numbers.split(",")[axis]) for numbers in each]


@pytest.mark.parametrize("hidden", [swept(512), swept(1024), swept(2048), swept(8192)])
def test_a_norm_of_any_width_is_summed_in_one_order_for_every_number_of_rows(
    launched: list[CompiledKernel], hidden: int
) -> None:
    for R in (8, 9):
        normed_call(R, 512, hidden)
    normed = [kernel for kernel in launched if kernel.name == "linear_kernel"]
    assert len(normed) == 2 and reduction(normed[0], 1) == reduction(normed[1], 1)


@pytest.mark.parametrize("rank", [swept(3), swept(5), swept(64)])
def test_an_expand_of_any_rank_is_summed_in_one_order_for_every_number_of_rows(
    launched: list[CompiledKernel], rank: int
) -> None:
    for R in (8, 9):
        add_call(R, 512, 512, rank)
    added = [kernel for kernel in launched if kernel.name == "add_linear_kernel"]
    assert len(added) == 2 and reduction(added[0], 2) == reduction(added[1], 2)


def test_rows_are_addressed_in_64_bits(launched: list[CompiledKernel]) -> None:
    """The residual's, its squares' and B's."""
    normed_call(4, 28672 + SHRINKS, HIDDEN)
    add_call(4, HIDDEN, 14336, SHRINKS)
    text = {kernel.name: kernel.asm["ttir"] for kernel in launched}
    wide = r"arith\.muli %\w+, %\w+ : tensor<8x1xi64>"
    assert re.search(wide, text["linear_kernel"])
    assert len(re.findall(wide, text["add_linear_kernel"])) >= 3
    assert re.search(r"arith\.muli %\w+, %\w+ : tensor<8x32xi64>", text["add_linear_kernel"])
