"""Rotation and the cache store on a CPU, and what they refuse."""

from typing import Any

import pytest
import step_cases as cases
import torch

from genarm_kernels import rotary_store


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "padded", "narrow"])
@pytest.mark.parametrize(
    ("R", "H", "H_kv", "D", "A", "norm"),
    [(1, 4, 2, 16, 0, False), (2, 3, 1, 6, 1, True), (4, 16, 4, 64, 3, True), (40, 2, 2, 96, 2, False)],
)
def test_agrees_with_the_oracle(
    R: int, H: int, H_kv: int, D: int, A: int, norm: bool, layout: str, dtype: torch.dtype
) -> None:
    cases.check_rotary(R, H, H_kv, D, dtype, A, 5, layout, norm=norm)


@pytest.mark.parametrize("integers", [torch.int32, torch.int64], ids=str)
@pytest.mark.parametrize("positions", [[3, 12, 0], [3, -1, 0], [-5, 12, 100], [3, 5, 0]])
def test_tokens_go_to_their_rows_and_those_out_of_range_nowhere(positions: list[int], integers: torch.dtype) -> None:
    at = {"positions": positions, "rows": [4, 0, 2], "integers": integers}
    cases.check_rotary(3, 4, 2, 16, torch.float32, **at)
    cases.check_rotary(3, 4, 2, 16, torch.bfloat16, 2, 4, "padded", norm=True, **at)


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
        ({"cos": torch.zeros(5, 4), "sin": torch.zeros(5, 4)}, r"expected both \[6, 4\]"),
        ({"cos": torch.zeros(6, 4).half()}, "expected float32"),
        ({"positions": torch.zeros(2)}, "int32 or int64"),
        ({"positions": torch.zeros(3).long()}, "int32 or int64"),
        ({"rows": torch.zeros(2).short()}, "int32 or int64"),
        ({"key_cache": torch.zeros(2, 6, 1, 8).half()}, "key_cache is"),
        ({"value_cache": torch.zeros(2, 8, 6, 1).permute(0, 2, 3, 1)}, "next to each other"),
        ({"value_cache": torch.zeros(2, 7, 1, 8)}, "expected both"),
        ({"q_norm": torch.zeros(8)}, "both or neither"),
        ({"q_norm": torch.zeros(4), "k_norm": torch.zeros(4)}, r"expected \[8\]"),
    ],
)
def test_what_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    rotary_store(**GOOD)
    with pytest.raises(ValueError, match=message):
        rotary_store(**(GOOD | change))
