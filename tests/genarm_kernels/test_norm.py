"""Residual add and RMSNorm on a CPU, and what it refuses."""

import pytest
import step_cases as cases
import torch

from genarm_kernels import add_rms_norm


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "padded", "narrow"])
@pytest.mark.parametrize(("R", "N", "A"), [(1, 64, 0), (1, 96, 1), (4, 1024, 3), (3, 1, 1), (40, 130, 2), (0, 8, 0)])
def test_agrees_with_the_oracle(R: int, N: int, A: int, layout: str, dtype: torch.dtype) -> None:
    cases.check_norm(R, N, dtype, A, 5, layout)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_rounds_where_hugging_face_does(dtype: torch.dtype) -> None:
    cases.check_norm_is_hugging_face_s(dtype)


def test_without_z_the_residual_is_only_normed() -> None:
    cases.check_norm(3, 200, torch.bfloat16, add=False)


def test_the_residual_may_be_wider_than_the_rest() -> None:
    z, residual = cases.make_rows(3, 96, torch.bfloat16), cases.make_rows(3, 96, torch.float32)
    expected = residual + z
    normed = add_rms_norm(z, residual, torch.ones(96, dtype=torch.bfloat16), 1e-5)
    assert torch.equal(residual, expected)
    assert normed.dtype == torch.bfloat16


@pytest.mark.parametrize(
    ("z", "residual", "weight", "message"),
    [
        (torch.zeros(2, 9), torch.zeros(2, 8), torch.zeros(8), r"expected \[R, 8 \+ no shrinks\]"),
        (torch.zeros(3, 8), torch.zeros(2, 8), torch.zeros(8), "every row needs both"),
        (torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(7), r"expected \[8\]"),
        (torch.zeros(8, 2).t(), torch.zeros(2, 8), torch.zeros(8), "next to each other"),
        (torch.zeros(2, 8), torch.zeros(8, 2).t(), torch.zeros(8), "expected rows"),
        (torch.zeros(2, 8), torch.zeros(8), torch.zeros(8), "expected rows"),
    ],
)
def test_what_does_not_fit_is_refused(
    z: torch.Tensor, residual: torch.Tensor, weight: torch.Tensor, message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        add_rms_norm(z, residual, weight, 1e-5)


def test_adapters_without_shrinks_are_refused() -> None:
    with pytest.raises(ValueError, match="lora without z"):
        add_rms_norm(None, torch.zeros(2, 8), torch.zeros(8), 1e-5, cases.make_lora(2, (8,), 1, 4, torch.float32))
