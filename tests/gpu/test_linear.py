"""skinny_linear on a GPU: the interpreter's checks, real sizes, a row among any number of rows, graphs, dispatch."""

from collections.abc import Callable

import linear_cases as cases
import pytest
import torch
import torch.nn.functional as F

from genarm_kernels import reference, skinny_linear
from genarm_kernels.layer import linear

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
CUDA = "cuda"
# N and H of Llama-3.1-8B's layers, one with shrinks of adapters below; a layer that is taken in parts; an odd one.
SHAPES = [(6192, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096), (512, 14336), (1000, 777)]


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator(CUDA).manual_seed(seed), device=CUDA).to(dtype)


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None]) -> None:
    check(CUDA)


@pytest.mark.parametrize("dtype", cases.DTYPES[:2], ids=str)
@pytest.mark.parametrize(("N", "H"), SHAPES)
def test_no_further_from_the_truth_than_torch(N: int, H: int, dtype: torch.dtype) -> None:
    weight, bias = normal(N, H, seed=1, dtype=dtype), normal(N, seed=2, dtype=dtype)
    for R in (1, 7, 16, 33, 64):
        x = normal(R, H, seed=R, dtype=dtype)
        truth = torch.cat([x.double() @ part.double().T for part in weight.split(16384)], 1) + bias.double()
        ours, theirs = (
            (y.double() - truth).abs() for y in (linear.linear_by_kernel(x, weight, bias), F.linear(x, weight, bias))
        )
        assert float(ours.max()) <= 1.05 * float(theirs.max()) + 1e-5


@pytest.mark.parametrize(("N", "H"), SHAPES)
def test_a_row_does_not_depend_on_how_many_there_are(N: int, H: int) -> None:
    x, weight = normal(64, H, seed=1), normal(N, H, seed=2)
    whole = linear.linear_by_kernel(x, weight)
    assert torch.equal(linear.linear_by_kernel(x, weight), whole)
    for size in (1, 2, 8, 9, 16, 17, 32, 33):
        for start in (0, 5, 31):
            rows = slice(start, start + size)
            assert torch.equal(linear.linear_by_kernel(x[rows], weight), whole[rows])


def test_float32_keeps_its_accuracy() -> None:
    x, weight = normal(32, 4096, seed=1, dtype=torch.float32), normal(1000, 4096, seed=2, dtype=torch.float32)
    expected = reference.skinny_linear(x, weight)
    torch.testing.assert_close(linear.linear_by_kernel(x, weight).double(), expected, rtol=1e-5, atol=1e-3)


def test_a_replayed_graph_follows_its_inputs() -> None:
    x, weight, bias = normal(4, 14336, seed=1), normal(512, 14336, seed=2), normal(512, seed=3)
    out = torch.empty(4, 512, dtype=x.dtype, device=CUDA)
    linear.linear_by_kernel(x, weight, bias, out)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        linear.linear_by_kernel(x, weight, bias, out)
    for seed in (4, 5):
        x.copy_(normal(4, 14336, seed=seed))
        graph.replay()
        assert torch.equal(out, linear.linear_by_kernel(x, weight, bias))


def test_weights_may_lie_beyond_2_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("NOT RUN: 12 GB of free memory are needed")
    tall = torch.empty(2**31 // 4096 + 4096, 4096, dtype=torch.bfloat16, device=CUDA)
    x = cases.numbers(3, 4096, seed=1, dtype=torch.bfloat16, device=CUDA)
    tall[-32:] = cases.numbers(32, 4096, seed=2, dtype=torch.bfloat16, device=CUDA)
    y = linear.linear_by_kernel(x, tall)[:, -32:]
    assert torch.equal(y, reference.skinny_linear(x, tall[-32:]).bfloat16())


def test_the_op_takes_the_kernel_or_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    kernel = linear.linear_by_kernel
    monkeypatch.setattr(linear, "linear_by_kernel", lambda x, *rest: calls.append(len(x)) or kernel(x, *rest))
    weight = normal(4096, 4096, seed=1)
    with torch.no_grad():
        for R in (1, 16, 17, 65):
            x = normal(R, 4096, seed=R)
            torch.testing.assert_close(skinny_linear(x, weight), F.linear(x, weight), rtol=2e-2, atol=0.5)
    assert calls == [R for R in (1, 16, 17) if linear.prefers_kernel(R, 4096, 4096, weight.device)]
    with pytest.raises(ValueError, match=r"weight is on cpu and x on cuda:0: move one"):
        skinny_linear(normal(1, 4096, seed=1), weight.cpu())
