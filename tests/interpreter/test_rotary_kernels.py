"""Rotation, heads' norms and the store with their LoRA expand in Triton's interpreter, and mutants of the kernel."""

from collections.abc import Callable

import pytest
import step_cases as cases
import torch
from mutations import Mutation, assert_killed, edited

from genarm_kernels import rotary_store
from genarm_kernels.layer import lora, rotary


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "padded", "narrow"])
@pytest.mark.parametrize(("H", "H_kv", "D", "A"), [(4, 2, 16, 1), (3, 1, 6, 0), (2, 2, 96, 2)])
def test_agrees_with_the_oracle(H: int, H_kv: int, D: int, A: int, layout: str, dtype: torch.dtype) -> None:
    cases.check_rotary(3, H, H_kv, D, dtype, A, 16, layout, norm=A == 1)


@pytest.mark.parametrize(("H", "H_kv", "D"), [(14, 2, 64), (5, 5, 128), (3, 1, 256), (40, 8, 2)])
def test_takes_heads_of_any_size_and_number(H: int, H_kv: int, D: int) -> None:
    cases.check_rotary(2, H, H_kv, D, torch.bfloat16, 1, 4, norm=True)
    cases.check_rotary(2, H, H_kv, D, torch.float32)


@pytest.mark.parametrize("rank", [1, 3, 17])
def test_takes_any_rank(rank: int) -> None:
    cases.check_rotary(4, 4, 2, 16, torch.bfloat16, 3, rank)


@pytest.mark.parametrize("integers", [torch.int32, torch.int64], ids=str)
def test_tokens_go_to_their_rows_and_those_out_of_range_nowhere(integers: torch.dtype) -> None:
    at = {"positions": [-1, 12, 3, 11, 0, -(2**31)], "rows": [5, 0, 7, 2, 7, 1], "integers": integers}
    cases.check_rotary(6, 4, 2, 16, torch.float32, **at)
    cases.check_rotary(6, 4, 2, 16, torch.bfloat16, 2, 4, "padded", norm=True, **at)


@pytest.mark.parametrize("norm", [False, True])
def test_a_row_does_not_depend_on_its_batch(norm: bool) -> None:
    R, H, H_kv, D, T, dtype = 4, 3, 2, 32, 12, torch.bfloat16
    widths = (H * D, H_kv * D, H_kv * D)
    adapters = cases.make_lora(R, widths, 2, 5, dtype)
    z = cases.make_rows(R, cases.columns(widths, adapters), dtype)
    weights = [torch.ones(D, dtype=dtype)] * 2 if norm else [None, None]
    angles, positions = cases.make_angles(T, D), torch.tensor([3, 0, 11, 7])
    whole = cases.make_caches(R, T, H_kv, D, dtype, "cpu", "padded")
    query = rotary_store(z, *angles, positions, *whole, H, adapters, None, *weights)
    for r in range(R):
        caches = cases.make_caches(1, T, H_kv, D, dtype, "cpu", "padded")
        own = lora.Lora(adapters.up, adapters.adapters[r : r + 1], widths)
        alone = rotary_store(z[r : r + 1], *angles, positions[r : r + 1], *caches, H, own, None, *weights)
        assert torch.equal(alone[0], query[r])
        assert all(torch.equal(one[0], other[r]) for one, other in zip(caches, whole, strict=True))


def plain() -> None:
    cases.check_rotary(3, 4, 2, 16, torch.float32)


def normed() -> None:
    cases.check_rotary(3, 4, 2, 12, torch.float32, norm=True)


def adapted() -> None:
    cases.check_rotary(4, 4, 2, 16, torch.float32, 3, 5)


def elsewhere() -> None:
    cases.check_rotary(4, 2, 1, 16, torch.float32, positions=[-1, 12, 3, 11], rows=[5, 0, 1, 2])


def many_heads() -> None:
    cases.check_rotary(1, 5, 3, 128, torch.float32)


KERNEL = rotary.rotary_store_kernel
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "rotated the other way": (edited(KERNEL, "first * c - second * s", "first * c + second * s"), plain),
    "v rotated too": (edited(KERNEL, "if kind < 2:", "if kind < 3:"), plain),
    "k not rotated": (edited(KERNEL, "if kind < 2:", "if kind < 1:"), plain),
    "k stored over v": (edited(KERNEL, "target = value_cache +", "target = key_cache +"), plain),
    "only the first heads": (edited(KERNEL, "head = block * HEADS", "head = 0 * HEADS"), many_heads),
    "k's weight for q": (
        edited(KERNEL, "if kind == 1:\n                weight", "if kind >= 0:\n                weight"),
        normed,
    ),
    "mean over the block": (edited(rotary.head_scale, "/ D + eps", "/ (2 * HALF_BLOCK) + eps"), normed),
    "stored before the cache": (edited(KERNEL, "(position >= 0) & (position < T)", "position < T"), elsewhere),
    "stored behind the cache": (edited(KERNEL, "(position >= 0) & (position < T)", "position >= 0"), elsewhere),
    "rows ignored": (edited(KERNEL, "if ROWS:", "if not ROWS:"), elsewhere),
    "one target's shrinks for all": (
        edited(rotary.load_half, "up, adapter, kind, start +", "up, adapter, 0, start +"),
        adapted,
    ),
    "q's B for all": (edited(rotary.load_half, "kind, start + columns", "kind, columns"), adapted),
}


@pytest.mark.parametrize(("mutate", "check"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_killed_by_its_check(
    monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]
) -> None:
    check()
    assert_killed(monkeypatch, mutate, check)
