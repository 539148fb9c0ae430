"""The residual add, LoRA expand and RMSNorm in Triton's interpreter, and mutants of the kernel."""

from collections.abc import Callable

import pytest
import step_cases as cases
import torch
from mutations import Mutation, assert_killed, edited

from genarm_kernels import add_rms_norm
from genarm_kernels.layer import lora, norm


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "padded", "narrow"])
@pytest.mark.parametrize(("N", "A"), [(1, 1), (130, 0), (256, 3), (300, 1)])
def test_agrees_with_the_oracle(N: int, A: int, layout: str, dtype: torch.dtype) -> None:
    cases.check_norm(3, N, dtype, A, 16, layout)


@pytest.mark.parametrize("rank", [1, 3, 8, 16, 17, 48])
def test_takes_any_rank(rank: int) -> None:
    cases.check_norm(4, 96, torch.float32, 3, rank)
    cases.check_norm(4, 96, torch.bfloat16, 3, rank)


def test_a_row_longer_than_a_block_comes_in_several() -> None:
    cases.check_norm(2, 2 * norm.LARGEST + 72, torch.bfloat16, 1)


def test_without_z_the_residual_is_only_normed() -> None:
    cases.check_norm(3, 200, torch.bfloat16, add=False)


def test_the_residual_may_be_wider_than_the_rest() -> None:
    z, residual = cases.make_rows(3, 96, torch.bfloat16), cases.make_rows(3, 96, torch.float32)
    expected = residual + z
    normed = add_rms_norm(z, residual, torch.ones(96, dtype=torch.bfloat16), 1e-5)
    assert torch.equal(residual, expected)
    assert normed.dtype == torch.bfloat16


def test_rounds_where_hugging_face_does() -> None:
    # In float16: the interpreter cuts bfloat16 off where a device rounds.
    cases.check_norm_is_hugging_face_s()


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
def test_a_row_does_not_depend_on_its_batch(dtype: torch.dtype) -> None:
    R, N = 5, 300
    adapters = cases.make_lora(R, (N,), 2, 5, dtype)
    z, residual = cases.make_rows(R, cases.columns((N,), adapters), dtype), cases.make_rows(R, N, dtype)
    weight = torch.ones(N, dtype=dtype)
    alone = [residual[r : r + 1].clone() for r in range(R)]
    whole = add_rms_norm(z, residual, weight, 1e-5, adapters)
    for r in range(R):
        own = lora.Lora(adapters.up, adapters.adapters[r : r + 1], adapters.widths)
        assert torch.equal(add_rms_norm(z[r : r + 1], alone[r], weight, 1e-5, own)[0], whole[r])
        assert torch.equal(alone[r][0], residual[r])


def several_blocks() -> None:
    cases.check_norm(2, 600, torch.float32)


def three_adapters() -> None:
    cases.check_norm(4, 96, torch.float32, 3, 5)


def rounded() -> None:
    cases.check_norm(4, 512, torch.bfloat16)


KERNEL = norm.add_rms_norm_kernel
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "last column dropped": (edited(KERNEL, "mask = columns < N", "mask = columns < N - 1"), three_adapters),
    "only a row's first block normed": (
        edited(KERNEL, "tl.static_range(len(sums))", "tl.static_range(1)", 2),
        lambda: cases.check_norm(2, norm.LARGEST + 40, torch.float32),
    ),
    "mean over the block": (edited(KERNEL, "tl.sum(squares, 0) / N", "tl.sum(squares, 0) / BLOCK"), several_blocks),
    "residual not stored": (edited(KERNEL, "rounded, mask=mask", "rounded, mask=columns < 0"), rounded),
    "the sum normed before its rounding": (
        edited(KERNEL, "value = rounded.to(tl.float32)", "pass"),
        cases.check_norm_is_hugging_face_s,
    ),
    "another adapter's shrinks": (
        edited(lora.expand_columns, "(adapter * TARGETS + target)", "(target)"),
        three_adapters,
    ),
    "another adapter's B": (edited(lora.expand_columns, "up += adapter.to(tl.int64)", "up += 0"), three_adapters),
    "the first adapter left out": (edited(lora.expand_columns, "adapter >= 0", "adapter >= 1"), three_adapters),
    "ranks behind the last read": (
        edited(lora.expand_columns, "place < RANK", "place < STEP", 2),
        three_adapters,
    ),
    "only the first ranks": (
        edited(lora.expand_columns, "range(0, RANK, STEP)", "range(0, STEP, STEP)"),
        lambda: cases.check_norm(4, 96, torch.float32, 1, 40),
    ),
}


@pytest.mark.parametrize(("mutate", "check"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_killed_by_its_check(
    monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]
) -> None:
    check()
    assert_killed(monkeypatch, mutate, check)
