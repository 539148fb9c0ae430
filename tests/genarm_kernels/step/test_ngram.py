"""Prompt lookup against its oracle, and what it refuses."""

from collections.abc import Callable

import ngram_cases as cases
import pytest
import torch
from recorded import Recording

import genarm_kernels


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[..., None], device: str) -> None:
    check(device=device)


def test_many_random_texts_are_the_oracle_s(fast_device: str) -> None:
    cases.check_random(200, fast_device, 60)


def test_a_call_reads_nothing_back() -> None:
    texts, ends = torch.tensor([[1, 2, 3, 1, 2, 0, 0]]), torch.tensor([5])
    with Recording() as recorded:
        drafts, proposed = genarm_kernels.ngram_draft(texts, ends, 2)
    assert drafts.tolist() == [[3, 1]] and proposed.tolist() == [2]
    texts[0, 5] = 3
    ends += 1
    recorded.replay()
    assert drafts.tolist() == [[1, 2]]
    texts[0, 6], ends[0] = 4, 7
    recorded.replay()
    assert drafts.tolist() == [[0, 0]] and proposed.tolist() == [0]


@pytest.mark.parametrize(
    ("texts", "positions", "gamma", "message"),
    [
        (torch.zeros(2, 3), torch.zeros(2, dtype=torch.int64), 1, r"torch.float32 \[2, 3\]"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(3, dtype=torch.int64), 1, r"positions torch.int64 \[3\]"),
        (torch.zeros(2, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 1, "expected .* and"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int32), 1, "torch.int32"),
        (torch.zeros(2, 3, dtype=torch.int64), torch.zeros(2, dtype=torch.int64), 0, "gamma is 0"),
    ],
    ids=range(5),
)
def test_what_does_not_fit_is_refused(texts: torch.Tensor, positions: torch.Tensor, gamma: int, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        genarm_kernels.ngram_draft(texts, positions, gamma)
