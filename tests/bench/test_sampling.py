"""The sampling suite: implementations draw what they should, wrong draws are caught, a device's part fits its time."""

from __future__ import annotations

import sys
from types import ModuleType

import pytest
import torch
from torch import Tensor

from bench import measure, sampling
from bench.sampling import BUILDERS, CPU_GRID, FILTERS, GPU_GRID, check_tokens

CPU = torch.device("cpu")
B, M, V = 8, 2, 2000


@pytest.fixture
def draws() -> list[sampling.Draw]:
    torch.manual_seed(1)
    return [sampling.make_draw(B, M, V, torch.float32, CPU, index) for index in range(8)]


@pytest.mark.parametrize("filters", FILTERS)
def test_every_implementation_draws_from_the_guided_distribution(
    monkeypatch: pytest.MonkeyPatch, draws: list[sampling.Draw], filters: str
) -> None:
    monkeypatch.setitem(sys.modules, "flashinfer.sampling", _flashinfer())
    for name in BUILDERS.keys() - {"compiled"}:
        sample = BUILDERS[name](FILTERS[filters], B, CPU)
        check_tokens(draws, [sample(draw) for draw in draws], FILTERS[filters])


@pytest.mark.parametrize("filters", FILTERS)
def test_draws_of_something_else_are_caught(draws: list[sampling.Draw], filters: str) -> None:
    with pytest.raises(AssertionError):
        check_tokens(draws, [torch.randint(V, (B,)) for _ in draws], FILTERS[filters])
    if filters == "none":
        greedy = [sampling.weighted_sum(draw.logits, draw.weights).argmax(-1) for draw in draws]
        with pytest.raises(AssertionError, match="off by"):
            check_tokens(draws, greedy, {})
    else:
        unfiltered = BUILDERS["eager"]({}, B, CPU)
        with pytest.raises(AssertionError, match="outside"):
            check_tokens(draws, [unfiltered(draw) for draw in draws], FILTERS[filters])


def test_without_flashinfer_its_absence_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sampling, "find_spec", lambda name: None)
    assert "not installed" in sampling.missing("flashinfer", torch.device("cuda"))
    assert all(sampling.missing(name, CPU) is None for name in BUILDERS if name != "flashinfer")


@pytest.mark.parametrize("size", [64_000, 65_667_072, 311_164_928])
def test_inputs_rotate_through_three_times_the_l2(monkeypatch: pytest.MonkeyPatch, size: int) -> None:
    l2 = 60 * 2**20
    monkeypatch.setattr(measure, "l2_bytes", lambda: l2)
    plan = measure.rotation(size, torch.device("cuda"))
    assert 2 <= plan.sets <= plan.calls
    # With one set per call, the read between two rounds does the rotating.
    assert plan.sets == plan.calls or (plan.sets - 1) * size >= 3 * l2


def test_a_device_s_part_of_the_grid_has_the_targets_first() -> None:
    names = [case.name for case in GPU_GRID.cases() if GPU_GRID.fits(case)]
    assert names.index("B64-M4-V128256-none-ours") < 50 and names.index("B1-M2-V128256-none-ours") < 50
    assert len(names) == 400 and len(GPU_GRID.cases()) == 1260
    assert all(f"B64-M4-V128256-none-{name}" in names for name in BUILDERS)
    assert sum(CPU_GRID.fits(case) for case in CPU_GRID.cases()) == 128


def _flashinfer() -> ModuleType:
    """flashinfer.sampling as its signatures ask to be called, over plain torch."""

    def draw(probs: Tensor, seed: Tensor, offset: Tensor, **filters: float) -> Tensor:
        assert seed.dtype == offset.dtype == torch.int64 and seed.shape == offset.shape == (1,)
        return sampling.chain([probs.log()], torch.ones(1), **filters).int()

    module = ModuleType("flashinfer.sampling")
    module.softmax = lambda logits: logits.softmax(-1)
    module.sampling_from_logits = lambda logits, **noise: draw(logits.softmax(-1), **noise)
    module.top_k_top_p_sampling_from_logits = lambda logits, top_k, top_p, **noise: draw(
        logits.softmax(-1), **noise, top_k=top_k, top_p=top_p
    )
    for name in ("top_k", "top_p", "min_p"):
        kernel = f"{name}_sampling_from_probs"
        setattr(module, kernel, lambda probs, value, name=name, **noise: draw(probs, **noise, **{name: value}))
    return module
