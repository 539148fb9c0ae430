"""Products in C: exact sums, what a row's bits depend on, and which calls they take."""

from __future__ import annotations

import pytest
import torch
import torch.nn.functional as F
from native_cases import check_exact

from genarm_kernels import reference
from genarm_kernels.native import linear, products

DTYPES = (torch.float32, torch.bfloat16)
pytestmark = pytest.mark.usefixtures("native_path")


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("R", "N", "K"),
    [(1, 1, 1), (2, 2, 15), (3, 3, 16), (4, 13, 17), (5, 40, 48), (8, 75, 131), (63, 300, 512), (130, 13, 131),
     (1, 300, 512), (2, 75, 17), (5, 13, 15)],
)  # fmt: skip
def test_sums_are_exact(R: int, N: int, K: int, dtype: torch.dtype) -> None:
    check_exact(R, N, K, dtype)
    check_exact(R, N, K, dtype, bias=False)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_that_do_not_fit_the_cache_at_once(dtype: torch.dtype) -> None:
    check_exact(70, 5, 20_000, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_a_row_s_bits_are_its_own(dtype: torch.dtype) -> None:
    x, weight = torch.randn(37, 203).to(dtype), torch.randn(50, 203).to(dtype)
    whole = products.linear(x, weight)
    for rows in (slice(0, 1), slice(5, 7), slice(3, 12), slice(36, 37)):
        assert torch.equal(products.linear(x[rows], weight), whole[rows])
    # and a column's are its row of W's.
    assert torch.equal(products.linear(x, weight[7:9]), whole[:, 7:9])


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_rows_linear_takes_them_where_they_are_faster(dtype: torch.dtype, request: pytest.FixtureRequest) -> None:
    x, weight, bias = torch.randn(3, 48).to(dtype), torch.randn(70, 64).to(dtype)[:, :48], torch.randn(70).to(dtype)
    y = linear.rows_linear(x, weight, bias)
    assert torch.equal(y, products.linear(x, weight, bias))
    torch.testing.assert_close(y.double(), reference.skinny_linear(x, weight, bias), rtol=1e-2, atol=1e-2)
    many = torch.randn(linear.MOST_FLOAT_ROWS + 1, 48).to(dtype)
    assert linear.suits(many, weight, bias) == (dtype == torch.bfloat16)
    request.getfixturevalue("torch_path")
    assert torch.equal(linear.rows_linear(x, weight, bias), F.linear(x, weight, bias))


def test_what_needs_a_gradient_has_no_memory_or_another_dtype_is_torch_s() -> None:
    x, weight = torch.randn(2, 8), torch.randn(3, 8)
    assert linear.suits(x, weight)
    assert not linear.suits(x.clone().requires_grad_(), weight)
    assert not linear.suits(x.half(), weight.half())
    assert not linear.suits(x, weight.bfloat16())
    assert not linear.suits(x.to("meta"), weight.to("meta"))
    assert not linear.suits(x.t().contiguous().t(), weight)
    assert not linear.suits(x[:0], weight)
    with torch.no_grad():
        assert linear.suits(x.clone().requires_grad_(), weight)


def test_another_default_device_changes_nothing() -> None:
    x, weight = torch.randn(2, 8), torch.randn(3, 8)
    with torch.device("meta"):
        y = linear.rows_linear(x, weight)
    assert y.device.type == "cpu"
    torch.testing.assert_close(y, x @ weight.T)
