"""skinny_linear: exact sums, a row among any number of rows, how launches are cut, and which calls the kernel takes."""

import itertools
from collections.abc import Callable
from dataclasses import replace

import linear_cases as cases
import pytest
import torch
import torch.nn.functional as F
from gpu_cases import captured
from linear_cases import DTYPES
from torch import Tensor

from genarm_kernels import reference, skinny_linear
from genarm_kernels.card import CARDS, DEFAULT, PROGRAM_BYTES
from genarm_kernels.layer import linear
from genarm_kernels.layer.cut import STEP_BYTES, configuration

CPU, CUDA = torch.device("cpu"), "cuda"
# Of Llama-3.1-8B, Llama-3.2-1B and Qwen3-0.6B, with and without a LoRA adapter's shrinks below the weights.
SHAPES = [
    (N + shrinks, H)
    for (N, H), shrinks in itertools.product(
        [
            (6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096),
            (3072, 2048), (2048, 2048), (16384, 2048), (2048, 8192), (128256, 2048),
            (4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072), (151936, 1024),
        ],
        (0, 48, 144),
    )
]  # fmt: skip
# N and H of Llama-3.1-8B's layers, one with shrinks of adapters below; a layer that is taken in parts; an odd one.
LAYERS = [(6192, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096), (512, 14336), (1000, 777)]


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], kernel_device: str) -> None:
    check(kernel_device)


@pytest.mark.interpreter
def test_the_weights_are_read_once_and_nothing_outside() -> None:
    cases.the_weights_are_read_once_and_nothing_outside()


@pytest.mark.parametrize(("R", "dtype"), [(1, DTYPES[0]), (5, DTYPES[1]), (64, DTYPES[2]), (65, DTYPES[0])], ids=str)
def test_a_cpu_gets_torch_s_linear(R: int, dtype: torch.dtype) -> None:
    x, weight, bias = torch.randn(R, 48).to(dtype), torch.randn(80, 64).to(dtype)[:70, :48], torch.randn(70).to(dtype)
    assert torch.equal(skinny_linear(x, weight), F.linear(x, weight))
    y = skinny_linear(x, weight, bias)
    assert torch.equal(y, F.linear(x, weight, bias))
    torch.testing.assert_close(y.double(), reference.skinny_linear(x, weight, bias), rtol=2e-2, atol=2e-2)
    out = torch.full((R, 73), torch.nan, dtype=dtype)
    skinny_linear(x, weight, bias, out[:, :70])
    torch.testing.assert_close(out[:, :70], y, rtol=2e-2, atol=2e-2)
    assert bool(out[:, 70:].isnan().all())


def test_a_cpu_keeps_the_grad() -> None:
    x, weight = torch.randn(2, 8, requires_grad=True), torch.randn(3, 8, requires_grad=True)
    skinny_linear(x, weight).sum().backward()
    assert x.grad is not None and weight.grad is not None


def test_what_does_not_fit_is_named() -> None:
    x, weight = torch.zeros(2, 8), torch.zeros(3, 8)
    with pytest.raises(ValueError, match=r"x has shape \[2, 8\] and weight \[3, 7\]: expected \[R, H\] and \[N, H\]"):
        skinny_linear(x, weight[:, :7])
    with pytest.raises(ValueError, match="flatten leading dimensions"):
        skinny_linear(x[None], weight)
    with pytest.raises(TypeError, match=r"x is torch.float32 and weight torch.bfloat16: convert"):
        skinny_linear(x, weight.bfloat16())
    with pytest.raises(ValueError, match=r"out is \[2, 4\] torch.float32 on cpu: expected \[2, 3\]"):
        skinny_linear(x, weight, out=torch.zeros(2, 4))
    with pytest.raises(ValueError, match=r"out is \[2, 3\] torch.float64"):
        skinny_linear(x, weight, out=torch.zeros(2, 3, dtype=torch.float64))


@pytest.mark.parametrize("normed", [False, True])
def test_enough_is_in_flight_and_fits(normed: bool) -> None:
    h200 = CARDS["H200"]
    for (N, H), R in itertools.product(SHAPES, (1, 2, 8, 9, 16, 17, 32, 33, 64)):
        cut = configuration(R, N, H, 2, h200, normed)
        programs = -(-N // cut.BLOCK_N) * cut.splits
        an_sm = 1 if programs <= h200.processors else 2
        of_weights, of_inputs = (cut.depth * rows * STEP_BYTES for rows in (cut.BLOCK_N, cut.ROWS + normed))
        assert an_sm * (of_weights + of_inputs + PROGRAM_BYTES) <= h200.shared_per_processor
        assert an_sm * of_weights >= 64 * 1024
        # 4.3 TB/s for 1 µs, by the programs that there are.
        if N >= 2048 and R <= 16:
            assert min(programs, an_sm * h200.processors) * of_weights >= 4.3e6, (N, H, R)


@pytest.mark.parametrize("itemsize", [2, 4])
def test_the_order_of_a_sum_does_not_depend_on_the_rows(itemsize: int) -> None:
    for N, H in [*SHAPES, (1, 100_000), (33, 50_001), (512, 14336), (100, 1), (640, 20_000)]:
        cuts = [configuration(R, N, H, itemsize) for R in range(1, 65)]
        assert all(cut.ROWS >= R for R, cut in enumerate(cuts, 1))
        assert len({(cut.splits, cut.steps) for cut in cuts}) == 1
        # The parts cover H, and none is empty.
        steps, cut = -(-H * itemsize // STEP_BYTES), cuts[0]
        assert (cut.splits - 1) * cut.steps < steps <= cut.splits * cut.steps


def test_h_is_taken_in_parts_for_few_tiles_of_long_rows_only() -> None:
    assert all(configuration(1, N, H, 2).splits == 1 for N, H in SHAPES)
    assert configuration(1, 512, 14336, 2).splits == 8
    assert configuration(1, 512, 4096, 2).splits == 1


def test_less_shared_memory_takes_fewer_steps_ahead() -> None:
    cards = [CARDS["H200"], CARDS["A100"], CARDS["RTX 4090"], replace(CARDS["L4"], shared_per_program=49152)]
    assert [configuration(16, 2048, 4096, 2, card).depth for card in cards] == [8, 6, 4, 2]


UNSUITED: list[dict[str, object]] = [
    {"R": 17}, {"N": 500}, {"H": 4104}, {"dtype": torch.float32}, {"x_stride": 4099}, {"start": 1},
]  # fmt: skip


def test_the_kernel_is_for_few_rows_of_wide_aligned_layers(monkeypatch: pytest.MonkeyPatch) -> None:
    # On a CPU everything but the device is as on a GPU.
    prefers = linear.prefers_kernel
    assert not prefers(1, 4096, 4096, CPU)
    monkeypatch.setattr(linear.card, "card_of", lambda device: DEFAULT)
    monkeypatch.setattr(linear, "prefers_kernel", lambda R, N, H, device: prefers(R, N, H, torch.device("cuda")))
    for change in ({}, *UNSUITED):
        case = {"R": 16, "N": 1024, "H": 4096, "dtype": torch.bfloat16, "x_stride": 4608, "start": 0, **change}
        R, N, H, dtype, x_stride, start = case.values()
        x = torch.empty(R * x_stride + start, dtype=dtype).as_strided((R, H), (x_stride, 1), start)
        with torch.no_grad():
            assert linear.suits_kernel(x, torch.empty(N, H, dtype=dtype)) == (not change), change


def test_an_older_device_keeps_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear.card, "card_of", lambda device: replace(DEFAULT, capability=(7, 5)))
    assert not linear.prefers_kernel(1, 4096, 4096, torch.device("cuda"))


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The rows of every call that the kernel takes."""
    rows: list[int] = []
    kernel = linear.linear_by_kernel
    monkeypatch.setattr(linear, "linear_by_kernel", lambda x, *rest: rows.append(len(x)) or kernel(x, *rest))
    return rows


@pytest.mark.interpreter
def test_the_op_takes_the_kernel_where_it_can(calls: list[int]) -> None:
    weight, bias = (cases.numbers(*shape, seed=1, dtype=torch.float32) for shape in ((20, 40), (20,)))

    def call(x: Tensor, weight: Tensor = weight) -> bool:
        before = len(calls)
        y = skinny_linear(x, weight, bias)
        assert torch.equal(y.double(), reference.skinny_linear(x, weight, bias))
        return len(calls) > before

    x = cases.numbers(65, 40, seed=2, dtype=torch.float32)
    assert call(x[:32]) and not call(x[:33]) and not call(x) and not call(x[:0])
    assert not call(x[:4].t().contiguous().t())
    assert not call(x[:4], weight.t().contiguous().t())
    assert not call(x[:4].clone().requires_grad_())
    with torch.no_grad():
        assert call(x[:4].clone().requires_grad_())
    out = torch.empty(4, 20)
    assert skinny_linear(x[:4], weight, bias, out) is out
    assert torch.equal(out, skinny_linear(x[:4], weight, bias))
    with pytest.raises(ValueError, match=r"bias is \[19\] .*: expected \[20\]"):
        skinny_linear(x[:4], weight, bias[1:])


@pytest.mark.device
def test_the_op_takes_the_kernel_or_torch_on_a_gpu(calls: list[int]) -> None:
    weight = normal(4096, 4096, seed=1)
    with torch.no_grad():
        for R in (1, 16, 17, 65):
            x = normal(R, 4096, seed=R)
            torch.testing.assert_close(skinny_linear(x, weight), F.linear(x, weight), rtol=2e-2, atol=0.5)
    assert calls == [R for R in (1, 16, 17) if linear.prefers_kernel(R, 4096, 4096, weight.device)]
    with pytest.raises(ValueError, match=r"weight is on cpu and x on cuda:0: move one"):
        skinny_linear(normal(1, 4096, seed=1), weight.cpu())


def normal(*shape: int, seed: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator(CUDA).manual_seed(seed), device=CUDA).to(dtype)


@pytest.mark.device
@pytest.mark.parametrize(("N", "H"), LAYERS)
def test_real_layers_are_no_further_from_the_truth_than_torch(N: int, H: int) -> None:
    for dtype in DTYPES[:2]:
        weight, bias = normal(N, H, seed=1, dtype=dtype), normal(N, seed=2, dtype=dtype)
        for R in (1, 7, 16, 33, 64):
            x = normal(R, H, seed=R, dtype=dtype)
            truth = torch.cat([x.double() @ part.double().T for part in weight.split(16384)], 1) + bias.double()
            ours, theirs = (
                (y.double() - truth).abs()
                for y in (linear.linear_by_kernel(x, weight, bias), F.linear(x, weight, bias))
            )
            assert float(ours.max()) <= 1.05 * float(theirs.max()) + 1e-5


@pytest.mark.device
@pytest.mark.parametrize(("N", "H"), LAYERS)
def test_a_row_does_not_depend_on_how_many_there_are(N: int, H: int) -> None:
    x, weight = normal(64, H, seed=1), normal(N, H, seed=2)
    whole = linear.linear_by_kernel(x, weight)
    assert torch.equal(linear.linear_by_kernel(x, weight), whole)
    for size, start in itertools.product((1, 2, 8, 9, 16, 17, 32, 33), (0, 5, 31)):
        rows = slice(start, start + size)
        assert torch.equal(linear.linear_by_kernel(x[rows], weight), whole[rows])


@pytest.mark.device
def test_float32_keeps_its_accuracy() -> None:
    x, weight = normal(32, 4096, seed=1, dtype=torch.float32), normal(1000, 4096, seed=2, dtype=torch.float32)
    expected = reference.skinny_linear(x, weight)
    torch.testing.assert_close(linear.linear_by_kernel(x, weight).double(), expected, rtol=1e-5, atol=1e-3)


@pytest.mark.device
def test_a_replayed_graph_follows_its_inputs() -> None:
    x, weight, bias = normal(4, 14336, seed=1), normal(512, 14336, seed=2), normal(512, seed=3)
    graph, out = captured(lambda: linear.linear_by_kernel(x, weight, bias))
    for seed in (4, 5):
        x.copy_(normal(4, 14336, seed=seed))
        graph.replay()
        assert torch.equal(out, linear.linear_by_kernel(x, weight, bias))


@pytest.mark.device
def test_weights_may_lie_beyond_2_to_the_31_elements() -> None:
    if torch.cuda.mem_get_info()[0] < 12e9:
        pytest.skip("NOT RUN: 12 GB of free memory are needed")
    tall = torch.empty(2**31 // 4096 + 4096, 4096, dtype=torch.bfloat16, device=CUDA)
    x = cases.numbers(3, 4096, seed=1, dtype=torch.bfloat16, device=CUDA)
    tall[-32:] = cases.numbers(32, 4096, seed=2, dtype=torch.bfloat16, device=CUDA)
    y = linear.linear_by_kernel(x, tall)[:, -32:]
    assert torch.equal(y, reference.skinny_linear(x, tall[-32:]).bfloat16())
