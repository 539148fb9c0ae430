"""A step's tail against its oracle, every tensor to the last bit, and what it refuses."""

from collections.abc import Callable
from typing import Any

import pytest
import tail_cases as cases
import torch
from recorded import Recording

import genarm_kernels
from genarm_kernels.step.rules import GOING_ON, STOP


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], device: str) -> None:
    check(device)


def test_a_kernel_writes_nothing_behind_the_last_column(kernel_device: str) -> None:
    cases.check_nothing_is_written_beyond(kernel_device)


@pytest.mark.parametrize("B", [2, 64])
def test_many_random_steps_are_the_oracle_s(B: int, fast_device: str) -> None:
    options: dict[str, Any] = {"stops": cases.aligned(cases.STOPS, 4, 8), "eos": (3,) * 5, "seen": True, "kept": True}
    cases.check_random(B, device=fast_device, **options)


def test_a_call_reads_nothing_back_and_writes_to_no_index() -> None:
    # What can be recorded once and replayed on other values in the same tensors, a CUDA graph can capture.
    options: dict[str, Any] = {"stops": cases.aligned(([1, 2],), 2), "eos": (3,), "seen": True, "kept": True}
    progress, sample = cases.make_progress(2, **options), cases.make_sample([1, 1], None, True)
    with Recording() as recorded:
        genarm_kernels.advance(sample, progress, cases.PAD)
    sample.tokens.copy_(torch.tensor([2, 1]))
    recorded.replay()
    assert progress.reasons.tolist() == [STOP, GOING_ON] and progress.step.tolist() == [2]
    assert progress.generated[:, :3].tolist() == [[1, 2, cases.PAD], [1, 1, cases.PAD]]


def test_no_rows_are_a_step_too(device: str) -> None:
    progress = cases.make_progress(0, device=device)
    cases.step(progress, cases.make_sample([]))
    assert progress.step.tolist() == [1]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"generated": torch.zeros(2, dtype=torch.int64)}, "generated has shape .*expected 2 dimensions"),
        ({"step": torch.zeros(1)}, r"step is torch.float32 \[1\] on cpu: expected torch.int64 \[1\]"),
        ({"arrived": torch.zeros(1, dtype=torch.int64)}, "arrived is torch.int64"),
        ({"reasons": torch.zeros(3, dtype=torch.int64)}, r"expected torch.int64 \[2\]"),
        ({"report": torch.zeros(2, 2, dtype=torch.int64)}, r"expected torch.int64 \[3, 2\]"),
        ({"positions": torch.zeros(2, dtype=torch.int64, device="meta")}, "on meta: .* where generated is"),
        ({"seen": torch.zeros(5, 2, dtype=torch.bool).t()}, "strides"),
        ({"report": torch.zeros(2, 3, dtype=torch.int64).t()}, "strides"),
        ({"logprobs": None}, "pass both or neither"),
        ({"model_logprobs": torch.zeros(2, 6, 3).double()}, "torch.float64"),
    ],
)
def test_a_progress_that_does_not_fit_is_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cases.make_progress(2, seen=True, kept=True)._replace(**change).checked()


@pytest.mark.parametrize(
    "change",
    [
        {"tokens": torch.zeros(1, dtype=torch.int64)}, {"status": torch.zeros(3, dtype=torch.int32)},
        {"logprobs": None}, {"logprobs": torch.zeros(1)}, {"model_logprobs": torch.zeros(2, 1)},
        {"log_normalizers": None}, {"log_normalizers": torch.zeros(1)},
    ],
    ids=lambda change: f"{[*change]} {[None if one is None else [*one.shape] for one in change.values()]}",
)  # fmt: skip
def test_a_draw_that_does_not_fit_is_refused(change: dict[str, Any]) -> None:
    sample = cases.make_sample([1, 2], None, True)._replace(**change)
    with pytest.raises(ValueError, match=f"takes .*{next(iter(change))}"):
        genarm_kernels.advance(sample, cases.make_progress(2, kept=True), 0)
