"""A step's tail with drafts against its oracle, every tensor to the last bit, and what it refuses."""

from collections.abc import Callable
from typing import Any

import accept_cases as cases
import pytest
import torch
from recorded import Recording

import genarm_kernels
from genarm_kernels.step.rules import GOING_ON, STOP


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], device: str) -> None:
    check(device)


def test_a_kernel_writes_nothing_behind_the_last_column(kernel_device: str) -> None:
    cases.check_nothing_is_written_beyond(kernel_device)


@pytest.mark.parametrize("Q", [1, 2, 4, 8])
def test_many_random_steps_are_the_oracle_s(Q: int, fast_device: str) -> None:
    options: dict[str, Any] = {"stops": cases.aligned(cases.STOPS, 4, 8), "eos": (3,) * 5, "seen": True, "kept": True}
    cases.check_random(32, Q, 6, faults=0.01, device=fast_device, **options)
    cases.check_random(16, Q, 8, faults=0, device=fast_device, stops=cases.aligned(cases.STOPS[2:3], 3))


def test_a_call_reads_nothing_back_and_writes_to_no_index() -> None:
    # What can be recorded once and replayed on other values in the same tensors, a CUDA graph can capture.
    texts = cases.make_texts([[0], [0, 0]], 3, cases.aligned(([1, 2],), 2), (3,), seen=True, kept=True)
    sample, drafts = cases.make_draws([[1, 1, 1]] * 2, None, True), torch.tensor([[1, 2]] * 2)
    proposed = torch.tensor([2, 2])
    with Recording() as recorded:
        genarm_kernels.accept(sample, drafts, proposed, texts)
    assert texts.counts.tolist() == [2, 2]
    sample.tokens.copy_(torch.tensor([2, 1, 1, 0, 4, 3]))
    drafts.copy_(torch.tensor([[2, 2], [0, 4]]))
    recorded.replay()
    assert texts.reasons.tolist() == [STOP, cases.EOS] and texts.counts.tolist() == [3, 5]
    assert texts.texts[0, :4].tolist() == [0, 1, 1, 2] and texts.texts[1, :7].tolist() == [0, 0, 1, 1, 0, 4, 3]


def test_no_rows_are_a_step_too(device: str) -> None:
    texts = cases.make_texts([[0]], 2, device=device)
    none = texts._replace(**{
        name: value[:0] for name, value in texts._asdict().items()
        if value is not None and name not in ("report", "eos_ids", "stops")
    }, report=texts.report[:, :0].contiguous()).checked()  # fmt: skip
    cases.step(none, cases.make_draws([]), [])


def test_the_draft_s_rows_may_lie_apart(device: str) -> None:
    texts = cases.make_texts([[0], [0]], 2, device=device)
    drafts = torch.tensor([[1, 9, 9], [2, 9, 9]], device=device)[:, :1]
    sample = cases.on(cases.make_draws([[1, 3], [2, 3]]), device)
    assert genarm_kernels.accept(sample, drafts, drafts[:, 0] * 0 + 1, texts).tolist() == [2, 2]
    assert texts.reasons.tolist() == [GOING_ON] * 2


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"texts": torch.zeros(2, dtype=torch.int64)}, "two dimensions"),
        ({"report": torch.zeros(5, 2, dtype=torch.int64)}, "Q at least 1"),
        ({"positions": torch.zeros(2)}, r"positions is torch.float32 \[2\] on cpu: expected torch.int64 \[2\]"),
        ({"limits": torch.zeros(3, dtype=torch.int64)}, r"expected torch.int64 \[2\]"),
        ({"counts": torch.zeros(2, dtype=torch.int64, device="meta")}, "on meta: .* where texts are"),
        ({"seen": torch.zeros(5, 2, dtype=torch.bool).t()}, "strides"),
        ({"eos_ids": torch.zeros(2, 1, dtype=torch.int64)}, "eos_ids is"),
        ({"logprobs": None}, "pass both or neither"),
        ({"log_normalizers": torch.zeros(2, 6)}, r"log_normalizers is torch.float32 \[2, 6\]"),
        ({"model_logprobs": torch.zeros(2, 12, 3).double()}, "torch.float64"),
    ],
)
def test_texts_that_do_not_fit_are_refused(change: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        cases.make_texts([[0], [0]], 3, seen=True, kept=True)._replace(**change).checked()


@pytest.mark.parametrize(
    ("change", "drafts", "proposed", "message"),
    [
        ({"tokens": torch.zeros(4, dtype=torch.int64)}, (2, 2), 2, r"tokens of the draw are \[4\]: expected \[6\]"),
        ({"status": torch.zeros(2, dtype=torch.int32)}, (2, 2), 2, "status of the draw"),
        ({"logprobs": None}, (2, 2), 2, "logprobs of the draw are missing"),
        ({"model_logprobs": torch.zeros(6, 1)}, (2, 2), 2, r"expected \[6, 3\], 2 rows of 3 places"),
        ({"log_normalizers": None}, (2, 2), 2, "log_normalizers of the draw are missing"),
        ({}, (3, 2), 2, r"drafts are \[3, 2\]: expected \[2, 0 to 2\]"),
        ({}, (2, 3), 2, r"drafts are \[2, 3\]"),
        ({}, (2, 2), 1, "proposed is"),
    ],
)  # fmt: skip
def test_a_draw_that_does_not_fit_is_refused(
    change: dict[str, Any], drafts: tuple[int, int], proposed: int, message: str
) -> None:
    sample = cases.make_draws([[1, 2, 3]] * 2, None, True)._replace(**change)
    texts = cases.make_texts([[0], [0]], 3, kept=True)
    with pytest.raises(ValueError, match=message):
        genarm_kernels.accept(
            sample, torch.zeros(drafts, dtype=torch.int64), torch.zeros(proposed, dtype=torch.int64), texts
        )
