"""A decoding step in C against float64, and what a row's result depends on."""

from __future__ import annotations

import pytest
import torch
from native_cases import SHAPES, Shape, check_a_step, make_step

DTYPES = (torch.float32, torch.bfloat16)
pytestmark = pytest.mark.usefixtures("native_path")


@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_step_is_the_oracle_s(shape: Shape) -> None:
    for dtype in DTYPES:
        check_a_step(shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_does_not_depend_on_its_batch_or_on_the_threads(dtype: torch.dtype) -> None:
    shape = Shape(lengths=(3, 90, 4, 14, 600, 2, 7), adapters=(0, -1, 1, 1, 0, 0, 1), A=2, D=24, windows=(0, 11))
    whole = make_step(shape, dtype)
    hidden = whole.run()
    for rows in ([0], [4], [6], [2, 3], [5, 4, 3, 2, 1, 0]):
        part = make_step(shape, dtype).rows(rows)
        assert torch.equal(part.run(), hidden[rows])
        assert torch.equal(part.cache.nan_to_num(9), whole.cache[:, :, rows].nan_to_num(9))
    torch.set_num_threads(2)
    try:
        assert torch.equal(make_step(shape, dtype).run(), hidden)
    finally:
        torch.set_num_threads(1)


def test_a_step_reads_its_tensors_as_they_are_at_the_call() -> None:
    step = make_step(SHAPES["five rows, two adapters"], torch.float32)
    step.run()
    for tensor in (step.layers[0].qkv.weight, step.layers[1].down.lora.up, step.norm):  # type: ignore[union-attr]
        tensor.mul_(1.5)
    expected, _ = step.truth()
    torch.testing.assert_close(step.run().double(), expected, rtol=1e-4, atol=1e-5)


def test_nan_stays_in_its_row() -> None:
    step = make_step(SHAPES["plain"], torch.float32)
    expected, _ = step.truth()
    step.embedded[1, 3] = torch.nan
    hidden = step.run()
    assert bool(hidden[1].isnan().all())
    torch.testing.assert_close(hidden[[0, 2]].double(), expected[[0, 2]], rtol=1e-4, atol=1e-5)
