"""The predicted step launches what the engine does, moves what its tensors hold, and stands on the page as computed."""

from __future__ import annotations

import pytest

from bench import page
from bench.launches import step as recorded_step
from bench.step_prediction import KERNELS_PAGE, MODEL, Kernel, Step, after, before, copied, parts, splits
from genarm_kernels.card import CARDS, DEFAULT


@pytest.mark.parametrize("K", [0, 3])
def test_the_kernels_of_a_predicted_step_are_those_that_are_launched(K: int) -> None:
    predicted, launched = after(Step(MODEL, K, 1024, layers=2)), recorded_step(MODEL, K, layers=2)
    assert [kernel.name for kernel in predicted] == [launch.name for launch in launched]
    for kernel, launch in zip(predicted, launched, strict=True):
        if launch.name.endswith("linear_kernel"):  # all but x and the result is weights
            assert kernel.bytes == pytest.approx(launch.bytes, rel=0.01)


def test_the_step_before_had_ten_kernels_per_layer_and_27_beside_them() -> None:
    assert [len(before(Step(MODEL, K, 1024))) for K in (0, 1, 3)] == [347] * 3


def test_a_kernel_takes_the_longer_of_bytes_and_instructions_and_then_its_latency() -> None:
    H100 = CARDS["H100 PCIe"]
    start = Kernel("", trips=0, chain=0).seconds(DEFAULT)
    assert start == pytest.approx(1e-6)
    assert Kernel("", bytes=4.3e6, trips=0, chain=0).seconds(DEFAULT) == pytest.approx(2e-6)
    assert Kernel("", bytes=4.3e6, instructions=66e6, trips=0, chain=0).seconds(DEFAULT) == pytest.approx(3e-6)
    assert Kernel("", instructions=33e6 * 114 / 132, trips=0, chain=0).seconds(H100) == pytest.approx(2e-6)
    assert Kernel("", bytes=copied(H100), trips=0, chain=0).seconds(H100) == pytest.approx(1, rel=1e-5)
    waiting = Kernel("", trips=2, chain=650, cycles=1950, handshakes=3)
    assert waiting.latency() == pytest.approx(1e-6 + 5 * 0.7e-6 + 2e-6)
    assert waiting.latency(0.3e-6) == pytest.approx(1e-6 + 1.4e-6 + 0.9e-6 + 2e-6)


def test_splits_are_those_of_the_attention_kernel() -> None:
    assert [splits(context) for context in (1, 1024, 1025, 8192, 8193)] == [(1, 1), (16, 1), (9, 2), (64, 2), (43, 3)]


def test_the_page_has_the_tables_as_they_are_computed() -> None:
    assert page.stale(KERNELS_PAGE, parts()) == []
