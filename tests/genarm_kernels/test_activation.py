"""SwiGLU on a CPU, and what it refuses."""

import pytest
import step_cases as cases
import torch

from genarm_kernels import swiglu


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "padded", "narrow"])
@pytest.mark.parametrize(
    ("R", "width", "A"), [(1, 64, 0), (1, 96, 1), (4, 1024, 3), (3, 1, 1), (40, 130, 2), (0, 8, 0)]
)
def test_agrees_with_the_oracle(R: int, width: int, A: int, layout: str, dtype: torch.dtype) -> None:
    cases.check_swiglu(R, width, dtype, A, 5, layout)


def test_an_odd_number_of_columns_is_refused() -> None:
    with pytest.raises(ValueError, match="as many of either"):
        swiglu(torch.zeros(2, 7))


def test_adapters_of_another_layer_are_refused() -> None:
    adapters = cases.make_lora(2, (8, 4), 1, 4, torch.float32)
    with pytest.raises(ValueError, match="targets of"):
        swiglu(torch.zeros(2, 12 + adapters.shrinks), adapters)
