"""Rows of a cache that go on as others: bit for bit, the tails alone, and what is refused."""

from typing import Any

import particle_cases as cases
import pytest
import torch

from genarm_kernels import follow_rows

FP32, BF16, FP16 = torch.float32, torch.bfloat16, torch.float16


@pytest.mark.parametrize(
    ("dtype", "offset", "D"), [(FP32, 0, 8), (BF16, 0, 8), (FP16, 1, 8), (FP32, 1, 3), (BF16, 0, 5), (FP16, 0, 6)]
)
def test_rows_take_the_tails_of_those_they_follow(dtype: torch.dtype, offset: int, D: int, device: str) -> None:
    cases.check_tails(dtype, device, offset, D)


def test_long_tails_come_whole(device: str) -> None:
    cases.check_follow([1, 1], [3, 0], [150, 150], 1, 1, 160, 128, torch.bfloat16, device)


def test_one_buffer_is_a_cache_of_one_plane(device: str) -> None:
    buffer = torch.arange(2 * 3 * 4 * 2, dtype=torch.float32, device=device).view(2, 3, 4, 2)
    expected = buffer.clone()
    expected[0, :, 1:3] = buffer[1, :, 1:3]
    origins, starts = torch.tensor([1, 1], device=device), torch.tensor([1, 0], dtype=torch.int32, device=device)
    follow_rows(buffer[None, None], origins, starts, starts + 2)
    assert torch.equal(buffer, expected)


def test_bounds_beyond_the_cache_end_with_it(device: str) -> None:
    cases.check_bounds_end_with_the_cache(device)


def test_a_kernel_does_not_follow_rows_that_do_not_exist(kernel_device: str) -> None:
    cases.check_strange_origins_are_not_followed(kernel_device)


@pytest.mark.parametrize("origins", [[1, 0, 2], [1, 2, 2], [3, 1, 2], [-1, 1, 2]])
def test_a_cpu_refuses_rows_that_follow_what_does_not_stay(origins: list[int]) -> None:
    cache = cases.make_cache(1, 3, 1, 4, 2)
    with pytest.raises(ValueError, match="whose own origin is itself"):
        follow_rows(cache, torch.tensor(origins), torch.zeros(3).int(), torch.ones(3).int())


GOOD = {
    "cache": torch.zeros(1, 2, 3, 1, 4, 2), "origins": torch.arange(3), "starts": torch.zeros(3).int(),
    "lengths": torch.ones(3).int(),
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"cache": torch.zeros(2, 3, 1, 4, 2)}, r"expected bfloat16, float16 or float32 \[L, 2, R, H, T, D\]"),
        ({"cache": torch.zeros(1, 2, 3, 1, 4, 2).double()}, "torch.float64"),
        ({"cache": torch.zeros(1, 2, 3, 4, 1, 2).transpose(3, 4)[..., :1]}, "contiguous"),
        ({"origins": torch.arange(3).int()}, r"expected torch.int64 \[3\]"),
        ({"starts": torch.zeros(3).long()}, r"expected torch.int32 \[3\]"),
        ({"lengths": torch.ones(2).int()}, "one per row"),
        ({"lengths": torch.ones(3, device="meta").int()}, "move one"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    follow_rows(**GOOD)
    with pytest.raises(ValueError, match=message):
        follow_rows(**(GOOD | change))
