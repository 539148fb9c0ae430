"""The two ways through an expand on a CPU, against the oracle."""

import pytest
import step_cases as cases
import torch

from genarm_kernels.layer.lora import FEW_ROWS, Lora, check_columns, expand, expand_few
from genarm_kernels.reference import layer

FEW, MANY = FEW_ROWS, FEW_ROWS + 1


@pytest.mark.parametrize(
    ("R", "widths", "A", "dtype"),
    [(R, widths, A, dtype)
     for (R, widths, A), dtype in zip([(1, (12,), 1), (4, (12,), 3), (FEW, (12, 12), 1), (MANY, (12, 12), 3),
                                       (1, (12, 4, 4), 3), (MANY, (12, 4, 4), 1), (4, (1, 1), 1), (FEW, (1, 1), 3),
                                       (4, (7, 3), 3), (MANY, (7, 3), 1), (FEW, (12, 4, 4), 3), (MANY, (12,), 1)],
                                      cases.DTYPES * 4, strict=True)],
    ids=str,
)  # fmt: skip
def test_both_ways_agree_with_the_oracle(R: int, widths: tuple[int, ...], A: int, dtype: torch.dtype) -> None:
    adapters = cases.make_lora(R, widths, A, 5, dtype)
    z = cases.make_rows(R, cases.columns(widths, adapters), dtype, layout="padded")
    truth = layer.expand(z, adapters)
    cases.assert_near(expand(z, adapters), truth)
    cases.assert_near(expand_few(z, adapters).to(dtype), truth)


def test_few_rows_are_expanded_in_float32() -> None:
    adapters = cases.make_lora(2, (8,), 1, 4, torch.bfloat16)
    z = cases.make_rows(2, 12, torch.bfloat16)
    assert expand_few(z, adapters).dtype == torch.float32
    torch.testing.assert_close(expand_few(z, adapters).double(), layer.expand(z, adapters))


@pytest.mark.parametrize(
    ("up", "adapters", "widths", "message"),
    [
        (torch.zeros(1, 8, 4).bfloat16(), torch.zeros(2).int(), (8,), "lora.up is torch.bfloat16"),
        (torch.zeros(1, 4, 8).transpose(1, 2), torch.zeros(2).int(), (8,), "contiguous"),
        (torch.zeros(1, 8, 4), torch.zeros(2).long(), (8,), "expected int32"),
        (torch.zeros(1, 8, 2), torch.zeros(2).int(), (4, 4), "targets of"),
        (torch.zeros(1, 8, 3), torch.zeros(2).int(), (8,), "expected .R, 8 . 3 shrinks."),
    ],
)
def test_what_does_not_fit_is_refused(
    up: torch.Tensor, adapters: torch.Tensor, widths: tuple[int, ...], message: str
) -> None:
    with pytest.raises(ValueError, match=message):
        check_columns(torch.zeros(2, 12), (8,), Lora(up, adapters, widths))
