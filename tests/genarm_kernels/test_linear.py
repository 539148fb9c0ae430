"""skinny_linear on a CPU, and how launches are cut: what a configuration promises, by arithmetic alone."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from linear_cases import DTYPES

from genarm_kernels import reference, skinny_linear
from genarm_kernels.layer import linear

CPU = torch.device("cpu")
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
ROWS = (1, 2, 8, 9, 16, 17, 32, 33, 64)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("R", [1, 5, 64, 65])
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


@pytest.mark.parametrize(("N", "H"), SHAPES)
def test_enough_is_in_flight_and_fits(N: int, H: int) -> None:
    for R in ROWS:
        cut = linear.configuration(R, N, H, 2)
        programs = -(-N // cut.BLOCK_N) * cut.splits
        an_sm = 1 if programs <= linear.SMS else 2
        of_weights, of_inputs = (cut.depth * rows * linear.STEP_BYTES for rows in (cut.BLOCK_N, cut.ROWS))
        assert an_sm * (of_weights + of_inputs + 1024) <= linear.SHARED_BYTES + 1024
        assert an_sm * of_weights >= 64 * 1024
        # 4.3 TB/s for 1 µs, by the programs that there are.
        if N >= 2048 and R <= 16:
            assert min(programs, an_sm * linear.SMS) * of_weights >= 4.3e6


@pytest.mark.parametrize("itemsize", [2, 4])
@pytest.mark.parametrize(("N", "H"), [*SHAPES, (1, 100_000), (33, 50_001), (512, 14336), (100, 1), (640, 20_000)])
def test_the_order_of_a_sum_does_not_depend_on_the_rows(N: int, H: int, itemsize: int) -> None:
    cuts = [linear.configuration(R, N, H, itemsize) for R in range(1, 65)]
    assert all(cut.ROWS >= R for R, cut in enumerate(cuts, 1))
    assert len({(cut.splits, cut.steps) for cut in cuts}) == 1
    # The parts cover H, and none is empty.
    steps, cut = -(-H * itemsize // linear.STEP_BYTES), cuts[0]
    assert (cut.splits - 1) * cut.steps < steps <= cut.splits * cut.steps


def test_h_is_taken_in_parts_for_few_tiles_of_long_rows_only() -> None:
    assert all(linear.configuration(1, N, H, 2).splits == 1 for N, H in SHAPES)
    assert linear.configuration(1, 512, 14336, 2).splits == 8
    assert linear.configuration(1, 512, 4096, 2).splits == 1


def test_less_shared_memory_takes_fewer_steps_ahead() -> None:
    depths = [linear.configuration(16, 4096, 4096, 2, shared).depth for shared in (232448, 166912, 101376, 49152)]
    assert depths == [8, 6, 4, 2]


@pytest.mark.parametrize(
    ("change", "suits"),
    [
        ({}, True),
        ({"R": 17}, False),
        ({"N": 500}, False),
        ({"H": 4104}, False),
        ({"dtype": torch.float32}, False),
        ({"x_stride": 4099}, False),
        ({"start": 1}, False),
    ],
)
def test_the_kernel_is_for_few_rows_of_wide_aligned_layers(
    monkeypatch: pytest.MonkeyPatch, change: dict[str, object], suits: bool
) -> None:
    # On a CPU everything but the device is as on a GPU.
    prefers = linear.prefers_kernel
    assert not prefers(1, 4096, 4096, CPU)
    monkeypatch.setattr(linear, "_capability", lambda device: (9, 0))
    monkeypatch.setattr(linear, "prefers_kernel", lambda R, N, H, device: prefers(R, N, H, torch.device("cuda")))
    case = {"R": 16, "N": 1024, "H": 4096, "dtype": torch.bfloat16, "x_stride": 4608, "start": 0, **change}
    R, N, H, dtype, x_stride, start = case.values()
    x = torch.empty(R * x_stride + start, dtype=dtype).as_strided((R, H), (x_stride, 1), start)
    with torch.no_grad():
        assert linear.suits_kernel(x, torch.empty(N, H, dtype=dtype)) == suits


def test_an_older_device_keeps_to_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(linear, "_capability", lambda device: (7, 5))
    assert not linear.prefers_kernel(1, 4096, 4096, torch.device("cuda"))
