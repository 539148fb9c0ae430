"""Residual add, LoRA expand and RMSNorm, and what they refuse."""

import pytest
import step_cases as cases
import torch

from genarm_kernels import add_rms_norm
from genarm_kernels.layer import lora, norm


@pytest.mark.parametrize(
    ("R", "N", "A", "rank", "dtype", "layout"),
    cases.sampled((1, 64, 0, 16), (3, 1, 1, 1), (40, 130, 2, 5), (3, 256, 3, 16), (4, 96, 3, 3), (2, 300, 1, 17),
                  (4, 96, 3, 48), (3, 130, 0, 16), (0, 8, 0, 16)),
)  # fmt: skip
def test_agrees_with_the_oracle(
    R: int, N: int, A: int, rank: int, dtype: torch.dtype, layout: str, device: str
) -> None:
    cases.check_norm(R, N, dtype, A, rank, layout, device)


@pytest.mark.interpreter
def test_a_row_longer_than_a_block_comes_in_several() -> None:
    cases.check_norm(2, 2 * norm.LARGEST + 72, torch.bfloat16, 1)


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_rounds_where_hugging_face_does(dtype: torch.dtype, fast_device: str) -> None:
    cases.check_norm_is_hugging_face_s(dtype, fast_device, 512 if fast_device == "cpu" else 4096)


@pytest.mark.interpreter
def test_the_kernel_rounds_where_hugging_face_does() -> None:
    # In float16: the interpreter cuts bfloat16 off where a device rounds.
    cases.check_norm_is_hugging_face_s()


def test_without_z_the_residual_is_only_normed(device: str) -> None:
    cases.check_norm(3, 200, torch.bfloat16, add=False, device=device)


def test_the_residual_may_be_wider_than_the_rest(device: str) -> None:
    z, residual = (cases.make_rows(3, 96, dtype, device) for dtype in (torch.bfloat16, torch.float32))
    expected = residual + z
    normed = add_rms_norm(z, residual, torch.ones(96, dtype=torch.bfloat16, device=device), 1e-5)
    assert torch.equal(residual, expected)
    assert normed.dtype == torch.bfloat16


@pytest.mark.interpreter
@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_a_row_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    R, N = 3, 300
    adapters = cases.make_lora(R, (N,), 2, 5, dtype)
    z, residual = cases.make_rows(R, cases.columns((N,), adapters), dtype), cases.make_rows(R, N, dtype)
    weight = torch.ones(N, dtype=dtype)
    alone = [residual[r : r + 1].clone() for r in range(R)]
    whole = add_rms_norm(z, residual, weight, 1e-5, adapters)
    for r in range(R):
        own = lora.Lora(adapters.up, adapters.adapters[r : r + 1], adapters.widths)
        assert torch.equal(add_rms_norm(z[r : r + 1], alone[r], weight, 1e-5, own)[0], whole[r])
        assert torch.equal(alone[r][0], residual[r])


@pytest.mark.parametrize(
    ("z", "residual", "weight", "message"),
    [
        (torch.zeros(2, 9), torch.zeros(2, 8), torch.zeros(8), r"expected \[R, 8 \+ no shrinks\]"),
        (torch.zeros(3, 8), torch.zeros(2, 8), torch.zeros(8), "every row needs both"),
        (torch.zeros(2, 8), torch.zeros(2, 8), torch.zeros(7), r"expected \[8\]"),
        (torch.zeros(8, 2).t(), torch.zeros(2, 8), torch.zeros(8), "next to each other"),
        (torch.zeros(2, 8), torch.zeros(8, 2).t(), torch.zeros(8), "expected rows"),
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
