"""SwiGLU with its LoRA expand, and what it refuses."""

import pytest
import step_cases as cases
import torch

from genarm_kernels import swiglu
from genarm_kernels.layer import lora


@pytest.mark.parametrize(
    ("R", "width", "A", "rank", "dtype", "layout"),
    cases.sampled((1, 64, 0, 16), (3, 1, 1, 1), (40, 130, 2, 5), (3, 520, 2, 16), (4, 96, 1, 3), (3, 77, 3, 17),
                  (4, 80, 3, 48), (2, 96, 0, 16), (0, 8, 0, 16)),
)  # fmt: skip
def test_agrees_with_the_oracle(
    R: int, width: int, A: int, rank: int, dtype: torch.dtype, layout: str, device: str
) -> None:
    cases.check_swiglu(R, width, dtype, A, rank, layout, device)


def test_large_gates_give_their_limits(device: str) -> None:
    gate = torch.tensor([[-200.0, -90.0, 0.0, 90.0, 200.0]], device=device)
    expected = gate.clamp(min=0) * 2
    assert torch.equal(swiglu(torch.cat([gate, torch.full((1, 5), 2.0, device=device)], 1)), expected)


@pytest.mark.interpreter
def test_a_row_does_not_depend_on_its_batch() -> None:
    R, width = 3, 600
    adapters = cases.make_lora(R, (width, width), 2, 5, torch.bfloat16)
    z = cases.make_rows(R, cases.columns((width, width), adapters), torch.bfloat16)
    whole = swiglu(z, adapters)
    for r in range(R):
        own = lora.Lora(adapters.up, adapters.adapters[r : r + 1], adapters.widths)
        assert torch.equal(swiglu(z[r : r + 1], own)[0], whole[r])


def test_an_odd_number_of_columns_and_adapters_of_another_layer_are_refused() -> None:
    with pytest.raises(ValueError, match="as many of either"):
        swiglu(torch.zeros(2, 7))
    adapters = cases.make_lora(2, (8, 4), 1, 4, torch.float32)
    with pytest.raises(ValueError, match="targets of"):
        swiglu(torch.zeros(2, 12 + adapters.shrinks), adapters)
