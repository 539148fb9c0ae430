"""The launchers' own calls, specialised by Triton as for a GPU and compiled for sm_90; only the launch is left out."""

import pytest
import torch
from compiled_launches import first, in_registers, swept
from kernel_cases import at, make_logits
from torch import Tensor
from triton.compiler import CompiledKernel

from genarm_kernels.sampling import kernels
from genarm_kernels.sampling.arguments import prepare
from genarm_kernels.sampling.values import settle

SETTINGS = {
    "temperature": 1.0, "top_k": 0, "top_p": 1.0, "min_p": 0.0, "base_min_p": 0.0, "base_top_p": 1.0,
    "bias": None, "seed": 0, "position": 0, "vocab_size": None,
}  # fmt: skip
ALL = {"top_k": 50, "top_p": 0.9, "min_p": 0.01, "base_min_p": 0.1, "base_top_p": 0.9}


def call(
    logits: list[Tensor], return_logprobs: bool = False, return_normalizers: bool = False, **settings: object
) -> None:
    inputs = settle(prepare(logits, torch.ones(len(logits)), *{**SETTINGS, **settings}.values()))
    kernels.guided_sample(inputs, return_logprobs, return_normalizers)


BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# B, V, stride, start, and whether loads are of 16 bytes
PLACES = [
    (4, 128256, 128256, 0, True), (4, 50257, 50264, 0, True), (4, 50257, 50257, 0, False),
    (4, 128256, 128256, 1, False), (4, 128256, 128256, 8, True), (4, 32000, 32002, 0, False),
    (1, 50257, 50257, 0, True), (64, 1, 1, 0, False),
]  # fmt: skip


@pytest.mark.parametrize(
    ("dtype", "B", "V", "stride", "start", "wide"),
    first([(BF16, *PLACES[0]), (FP32, *PLACES[3])], ((dtype, *at) for dtype in (BF16, FP16, FP32) for at in PLACES)),
)
def test_a_call_compiles_to_loads_that_its_tensors_allow(
    launched: list[CompiledKernel], dtype: torch.dtype, B: int, V: int, stride: int, start: int, wide: bool
) -> None:
    call([at(z, stride, start) for z in make_logits(B, V, 2, (dtype,))])
    group = in_registers(launched[0])
    narrow = {"LDG.E"} if dtype == torch.float32 else {"LDG.E.U16"}
    assert set(group.plain_loads) == ({"LDG.E.128"} if wide else narrow)


@pytest.mark.sweep
@pytest.mark.parametrize("asked", [(False, False), (True, False), (False, True), (True, True)])
@pytest.mark.parametrize("M", [1, 3, 8])
def test_a_call_with_everything_compiles(launched: list[CompiledKernel], M: int, asked: tuple[bool, bool]) -> None:
    logits = make_logits(3, 5000, M, (torch.bfloat16,))
    call(logits, *asked, **ALL, bias=torch.zeros(5000))
    names = [kernel.name for kernel in launched]
    search = ["group_kernel", "bound_kernel", "gather_kernel", "select_kernel"]
    assert names == [*search, *search, "regroup_kernel", "draw_kernel"]
    for kernel in launched:
        in_registers(kernel)


GROUP, SEARCH, DRAW = "group_kernel", ("bound_kernel", "gather_kernel", "select_kernel"), "draw_kernel"


@pytest.mark.parametrize(
    ("settings", "names"),
    [({}, [GROUP, DRAW]),
     ({"temperature": 0.0, "top_k": 50, "top_p": 0.9, "min_p": 0.01}, [GROUP, DRAW]),
     ({"min_p": 0.1}, [GROUP, "bound_kernel", "regroup_kernel", DRAW]),
     swept({"base_min_p": 0.1}, [GROUP, "bound_kernel", GROUP, DRAW]),
     ({"top_k": torch.tensor([0, 5])}, [GROUP, *SEARCH, "regroup_kernel", DRAW])],
)  # fmt: skip
def test_a_call_launches_what_its_filters_need(
    launched: list[CompiledKernel], settings: dict[str, object], names: list[str]
) -> None:
    call(make_logits(2, 3000, 2), **settings)
    assert [kernel.name for kernel in launched] == names


def test_a_second_call_of_another_size_compiles_nothing(launched: list[CompiledKernel]) -> None:
    # What varies from step to step must not make a serving process compile.
    def hashes() -> list[str]:
        found = [kernel.hash for kernel in launched]
        launched.clear()
        return found

    call(make_logits(2, 3000, 2), top_k=5)
    first = hashes()
    for B, seed, top_k in ((3, 5, 7), (16, 2**40, 1)):
        call(make_logits(B, 3000, 2), top_k=top_k, seed=seed, position=16)
        assert hashes() == first
