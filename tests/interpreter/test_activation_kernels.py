"""SwiGLU with its LoRA expand in Triton's interpreter, and mutants of the kernel."""

from collections.abc import Callable

import pytest
import step_cases as cases
import torch
from mutations import Mutation, assert_killed, edited

from genarm_kernels import swiglu
from genarm_kernels.layer import activation, lora


@pytest.mark.parametrize("dtype", cases.DTYPES, ids=str)
@pytest.mark.parametrize("layout", ["contiguous", "padded", "narrow"])
@pytest.mark.parametrize(("width", "A"), [(1, 1), (96, 0), (520, 2), (77, 3)])
def test_agrees_with_the_oracle(width: int, A: int, layout: str, dtype: torch.dtype) -> None:
    cases.check_swiglu(3, width, dtype, A, 16, layout)


@pytest.mark.parametrize("rank", [1, 3, 8, 17, 48])
def test_takes_any_rank(rank: int) -> None:
    cases.check_swiglu(4, 80, torch.bfloat16, 3, rank)


@pytest.mark.filterwarnings("ignore::RuntimeWarning")
def test_large_gates_give_their_limits() -> None:
    gate = torch.tensor([[-200.0, -90.0, 0.0, 90.0, 200.0]])
    assert torch.equal(swiglu(torch.cat([gate, torch.full((1, 5), 2.0)], 1)), gate.clamp(min=0) * 2)


def test_a_row_does_not_depend_on_its_batch() -> None:
    R, width = 5, 600
    adapters = cases.make_lora(R, (width, width), 2, 5, torch.bfloat16)
    z = cases.make_rows(R, cases.columns((width, width), adapters), torch.bfloat16)
    whole = swiglu(z, adapters)
    for r in range(R):
        own = lora.Lora(adapters.up, adapters.adapters[r : r + 1], adapters.widths)
        assert torch.equal(swiglu(z[r : r + 1], own)[0], whole[r])


def plain() -> None:
    cases.check_swiglu(3, 520, torch.float32)


def adapted() -> None:
    cases.check_swiglu(4, 72, torch.float32, 3, 5)


KERNEL = activation.swiglu_kernel
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "last column dropped": (edited(KERNEL, "columns < WIDTH", "columns < WIDTH - 1"), plain),
    "only the first block": (edited(KERNEL, "tl.program_id(1) * BLOCK", "0 * BLOCK"), plain),
    "gate and up swapped": (
        edited(KERNEL, "/ (1.0 + tl.exp(-gate)) * value", "* value / (1.0 + tl.exp(-value))"),
        plain,
    ),
    "gate's shrinks for up": (edited(KERNEL, "adapter, 1, WIDTH", "adapter, 0, WIDTH"), adapted),
    "gate's B for up": (edited(KERNEL, "adapter, 1, WIDTH + columns", "adapter, 1, columns"), adapted),
}


@pytest.mark.parametrize(("mutate", "check"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_killed_by_its_check(
    monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]
) -> None:
    check()
    assert_killed(monkeypatch, mutate, check)
