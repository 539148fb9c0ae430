"""skinny_linear's kernel in Triton's interpreter: exact sums, nothing read or written outside, and mutants of it."""

from collections import Counter
from collections.abc import Callable

import linear_cases as cases
import numpy as np
import pytest
import torch
from mutations import Mutation, assert_killed, edited
from torch import Tensor
from triton.runtime import interpreter

from genarm_kernels import reference, skinny_linear
from genarm_kernels.layer import linear

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
new_empty = Tensor.new_empty


@pytest.fixture(autouse=True)
def what_is_not_written_is_77(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(cases.SENTINEL))


def addresses_read(monkeypatch: pytest.MonkeyPatch) -> Counter[int]:
    """Counts, as kernels run, how often each address is loaded from."""
    seen: Counter[int] = Counter()
    load = interpreter._interpreter.load

    def recorded(pointers: np.ndarray, mask: np.ndarray, *rest: object) -> object:
        seen.update(pointers[mask].astype(np.int64).tolist())
        return load(pointers, mask, *rest)

    module = type("recording", (), {"load": staticmethod(recorded)})
    for name in dir(interpreter._interpreter):
        if name != "load" and not name.startswith("__"):
            setattr(module, name, getattr(interpreter._interpreter, name))
    monkeypatch.setattr(interpreter, "_interpreter", module)
    return seen


def addresses(tensor: Tensor) -> set[int]:
    rows, columns = (torch.arange(n)[:, None] * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return set((tensor.data_ptr() + (rows + columns.T) * tensor.element_size()).flatten().tolist())


def the_weights_are_read_once_and_nothing_outside() -> None:
    for R, N, H in ((3, 64, 512), (3, 70, 300)):
        x, weight = (cases.amid_nan(cases.numbers(n, H, seed=n, dtype=torch.float16), 70, 20) for n in (R, N))
        with pytest.MonkeyPatch.context() as patch:
            seen = addresses_read(patch)
            linear.linear_by_kernel(x, weight)
        assert set(seen) == addresses(x) | addresses(weight)
        # A last tile of fewer rows reads its last row in place of those it has not.
        again = addresses(weight[-1:]) if N % 32 else set()
        assert {seen[at] for at in addresses(weight) - again} == {1}
        assert {seen[at] for at in addresses(x)} == {-(-N // 32)}


LOCAL = (the_weights_are_read_once_and_nothing_outside,)


@pytest.mark.parametrize("check", [*cases.CHECKS, *LOCAL], ids=lambda check: check.__name__)
def test_check(check: Callable[[], None]) -> None:
    check()


def test_the_op_takes_the_kernel_where_it_can(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[int] = []
    kernel = linear.linear_by_kernel
    monkeypatch.setattr(linear, "linear_by_kernel", lambda x, *rest: calls.append(len(x)) or kernel(x, *rest))
    weight, bias = (cases.numbers(*shape, seed=1, dtype=torch.float32) for shape in ((20, 40), (20,)))

    def call(x: Tensor, weight: Tensor = weight) -> bool:
        before = len(calls)
        y = skinny_linear(x, weight, bias)
        assert torch.equal(y.double(), reference.skinny_linear(x, weight, bias))
        return len(calls) > before

    x = cases.numbers(65, 40, seed=2, dtype=torch.float32)
    assert call(x[:32]) and not call(x[:33]) and not call(x) and not call(x[:0])
    assert not call(x[:4].t().contiguous().t())
    assert not call(x[:4], weight.t().contiguous().t())
    assert not call(x[:4].clone().requires_grad_())
    with torch.no_grad():
        assert call(x[:4].clone().requires_grad_())
    out = torch.empty(4, 20)
    assert skinny_linear(x[:4], weight, bias, out) is out
    assert torch.equal(out, skinny_linear(x[:4], weight, bias))
    with pytest.raises(ValueError, match=r"bias is \[19\] .*: expected \[20\]"):
        skinny_linear(x[:4], weight, bias[1:])


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the last step left out": (
        edited(linear.linear_kernel, "tl.cdiv(H, STEP)", "H // STEP"),
        cases.every_shape_is_exact,
    ),
    "a last step of fewer columns read as full": (
        edited(linear.linear_kernel, "if EVEN:", "if EVEN or STEP > 0:"),
        cases.every_shape_is_exact,
    ),
    "weights masked one column short": (
        edited(linear.linear_kernel, "weights + at, mask=k < H - at", "weights + at, mask=k < H - at - 1"),
        cases.every_shape_is_exact,
    ),
    "rows of W beyond the last read": (
        edited(linear.linear_kernel, "tl.minimum(n, N - 1)", "n"),
        the_weights_are_read_once_and_nothing_outside,
    ),
    "a row of x too many read": (
        edited(linear.linear_kernel, "live = (rows < R)", "live = (rows < R + 1)"),
        the_weights_are_read_once_and_nothing_outside,
    ),
    "warps that share columns": (
        edited(linear.linear_kernel, "* SLICE + tl.arange(0, SLICE)", "* (SLICE - 1) + tl.arange(0, SLICE)"),
        cases.every_shape_is_exact,
    ),
    "every step reads the first columns": (
        edited(linear.linear_kernel, "at = step * STEP", "at = (step - step) * STEP"),
        cases.every_shape_is_exact,
    ),
    "x's stride taken for H": (
        edited(linear.linear_kernel, "[None, :, None] * x_stride", "[None, :, None] * H"),
        cases.every_shape_is_exact,
    ),
    "W's stride taken for H": (
        edited(linear.linear_kernel, "[None, :, None] * weight_stride", "[None, :, None] * H"),
        cases.every_shape_is_exact,
    ),
    "another column's bias": (
        edited(linear.linear_kernel, "tl.load(bias + n,", "tl.load(bias + (n ^ 1),"),
        cases.every_shape_is_exact,
    ),
    "a column too many stored": (
        edited(linear.linear_kernel, "mask=(n < N)[:, None]", "mask=(n < N + 1)[:, None]"),
        cases.every_shape_is_exact,
    ),
    "a row too many stored": (
        edited(linear.linear_kernel, "& (rows < R)[None, :]", "& (rows < R + 1)[None, :]"),
        cases.every_shape_is_exact,
    ),
    "the bias added by every part": (
        edited(linear.linear_by_kernel, "HAS_BIAS=bias is not None and cut.splits == 1", "HAS_BIAS=bias is not None"),
        cases.parts_of_h_are_added,
    ),
    "parts that overlap": (
        edited(linear.linear_kernel, "(part + 1) * steps", "(part + 2) * steps"),
        cases.parts_of_h_are_added,
    ),
    "one part added again and again": (
        edited(linear.sum_parts_kernel, "part * R + row", "row"),
        cases.parts_of_h_are_added,
    ),
    "the last part left out": (
        edited(linear.sum_parts_kernel, "tl.range(SPLITS)", "tl.range(SPLITS - 1)"),
        cases.parts_of_h_are_added,
    ),
    "a part's columns read from the next": (
        edited(linear.sum_parts_kernel, "tl.program_id(1) * COLUMNS", "tl.program_id(1) * 2 * COLUMNS"),
        cases.parts_of_h_are_added,
    ),
    "sums rounded to bfloat16 on the way": (
        edited(linear.linear_kernel, "y = tl.sum(sums, 0)", "y = tl.sum(sums.to(tl.bfloat16).to(tl.float32), 0)"),
        cases.random_numbers_are_as_near_as_their_dtype,
    ),
}


@pytest.mark.parametrize(("mutate", "check"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_killed_by_its_check(
    monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]
) -> None:
    assert_killed(monkeypatch, mutate, check)
