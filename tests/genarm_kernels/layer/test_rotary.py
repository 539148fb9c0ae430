"""Rotation, heads' norms and the cache store with their LoRA expand, and what they refuse."""

from typing import Any

import pytest
import step_cases as cases
import torch

from genarm_kernels import rotary_store
from genarm_kernels.layer import lora


@pytest.mark.parametrize(
    ("R", "H", "H_kv", "D", "A", "rank", "norm", "dtype", "layout"),
    cases.sampled((1, 4, 2, 16, 0, 16, False), (2, 3, 1, 6, 1, 1, True), (2, 16, 4, 64, 3, 5, True),
                  (18, 2, 2, 96, 2, 5, False), (2, 14, 2, 64, 1, 4, True), (2, 5, 5, 128, 1, 4, True),
                  (2, 3, 1, 256, 0, 16, False), (2, 40, 8, 2, 3, 17, False), (4, 4, 2, 16, 3, 3, False)),
)  # fmt: skip
def test_agrees_with_the_oracle(
    R: int, H: int, H_kv: int, D: int, A: int, rank: int, norm: bool, dtype: torch.dtype, layout: str, device: str
) -> None:
    cases.check_rotary(R, H, H_kv, D, dtype, A, rank, layout, device, norm)


@pytest.mark.parametrize("integers", [torch.int32, torch.int64], ids=str)
def test_tokens_go_to_their_rows_and_those_out_of_range_nowhere(integers: torch.dtype, device: str) -> None:
    at: dict[str, Any] = {"positions": [-1, 12, 3, 11, 0, -(2**31)], "rows": [5, 0, 7, 2, 7, 1], "integers": integers}
    cases.check_rotary(6, 4, 2, 16, torch.float32, device=device, **at)
    cases.check_rotary(6, 4, 2, 16, torch.bfloat16, 2, 4, "padded", device, norm=True, **at)


@pytest.mark.parametrize("integers", [torch.int32, torch.int64], ids=str)
def test_a_row_of_the_cache_may_start_at_any_position(integers: torch.dtype, device: str) -> None:
    cases.check_starts(torch.float32, integers=integers, device=device)
    cases.check_starts(torch.bfloat16, A=2, rank=4, layout="padded", device=device, norm=True, integers=integers)


@pytest.mark.parametrize("rows", [None, [4, 0, 2]])
@pytest.mark.parametrize("starts", [[0] * 5, [3, 5, 0, 7, 3]])
def test_rows_that_start_within_their_tokens_keep_all_of_them(
    starts: list[int], rows: list[int] | None, device: str
) -> None:
    at = {"positions": [3, 5, 11], "rows": rows, "starts": starts}
    cases.check_rotary(3, 4, 2, 16, torch.float32, device=device, **at)


def test_rows_that_start_at_0_are_as_rows_without_a_start(device: str) -> None:
    R, H, H_kv, D, T, dtype = 4, 4, 2, 16, 12, torch.bfloat16
    z, angles = cases.make_rows(R, (H + 2 * H_kv) * D, dtype, device), cases.make_angles(T, D, device)
    found = []
    for starts in (None, torch.zeros(R, dtype=torch.int32, device=device)):
        caches = cases.make_caches(R, T, H_kv, D, dtype, device, "padded")
        positions = torch.tensor([0, 11, 12, -1], device=device)
        query = rotary_store(z, *angles, positions, *caches, H, starts=starts)
        found.append((query, *caches))
    for plain, started in zip(*found, strict=True):
        assert torch.equal(plain, started)


@pytest.mark.parametrize("positions", [[3, 12, 0], [3, -1, 0], [3, 5, 0]])
def test_a_cpu_takes_rows_in_and_out_of_range(positions: list[int]) -> None:
    cases.check_rotary(3, 4, 2, 16, torch.float32, positions=positions, rows=[4, 0, 2])


@pytest.mark.interpreter
@pytest.mark.parametrize("norm", [False, True])
def test_a_row_does_not_depend_on_its_batch(norm: bool) -> None:
    R, H, H_kv, D, T, dtype = 3, 3, 2, 32, 12, torch.bfloat16
    widths = (H * D, H_kv * D, H_kv * D)
    adapters = cases.make_lora(R, widths, 2, 5, dtype)
    z = cases.make_rows(R, cases.columns(widths, adapters), dtype)
    weights = [torch.ones(D, dtype=dtype)] * 2 if norm else [None, None]
    angles, positions = cases.make_angles(T, D), torch.tensor([3, 0, 11])
    whole = cases.make_caches(R, T, H_kv, D, dtype, "cpu", "padded")
    query = rotary_store(z, *angles, positions, *whole, H, adapters, None, *weights)
    for r in range(R):
        caches = cases.make_caches(1, T, H_kv, D, dtype, "cpu", "padded")
        own = lora.Lora(adapters.up, adapters.adapters[r : r + 1], widths)
        alone = rotary_store(z[r : r + 1], *angles, positions[r : r + 1], *caches, H, own, None, *weights)
        assert torch.equal(alone[0], query[r])
        assert all(torch.equal(one[0], other[r]) for one, other in zip(caches, whole, strict=True))


def test_a_table_may_be_longer_than_the_cache() -> None:
    store = torch.zeros(2, 2, 4, 1, 8)
    rotary_store(torch.ones(2, 24), *cases.make_angles(9, 8), torch.tensor([3, 4]), store[0], store[1], 1)
    assert [int(row.any()) for row in store[1]] == [1, 0]


GOOD = {
    "z": torch.zeros(2, 32), "cos": torch.zeros(6, 4), "sin": torch.zeros(6, 4), "positions": torch.zeros(2).long(),
    "key_cache": torch.zeros(2, 6, 1, 8), "value_cache": torch.zeros(2, 6, 1, 8), "heads": 2,
}  # fmt: skip


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"z": torch.zeros(2, 33)}, r"expected \[R, 32"),
        ({"z": torch.zeros(3, 32), "positions": torch.zeros(3).long()}, "pass rows"),
        ({"cos": torch.zeros(6, 8)}, r"expected both \[6, 4\]"),
        ({"cos": torch.zeros(6, 4).half()}, "expected float32"),
        ({"positions": torch.zeros(2)}, "int32 or int64"),
        ({"rows": torch.zeros(2).short()}, "int32 or int64"),
        ({"key_cache": torch.zeros(2, 6, 1, 8).half()}, "key_cache is"),
        ({"value_cache": torch.zeros(2, 8, 6, 1).permute(0, 2, 3, 1)}, "next to each other"),
        ({"value_cache": torch.zeros(2, 7, 1, 8)}, "expected both"),
        ({"starts": torch.zeros(2).long()}, r"starts is torch.int64 \[2\]: expected contiguous int32 \[2\]"),
        ({"starts": torch.zeros(3, dtype=torch.int32)}, r"expected contiguous int32 \[2\]"),
        ({"q_norm": torch.zeros(8)}, "both or neither"),
        ({"q_norm": torch.zeros(4), "k_norm": torch.zeros(4)}, r"expected \[8\]"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    rotary_store(**GOOD)
    with pytest.raises(ValueError, match=message):
        rotary_store(**(GOOD | change))
