"""The group pass: the rules in every group, both ways through a group, and any split of a row."""

from collections.abc import Callable
from dataclasses import replace

import group_cases as cases
import pytest
import torch
from kernel_cases import assert_same_bits, make_logits

from genarm_kernels import card, guided_sample
from genarm_kernels.sampling import combine

pytestmark = pytest.mark.usefixtures("stale_memory")


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], device: str) -> None:
    check(device)


@pytest.mark.interpreter
@pytest.mark.parametrize("check", cases.INTERPRETED_CHECKS, ids=lambda check: check.__name__)
def test_interpreted_check(check: Callable[[], None]) -> None:
    check()


@pytest.mark.interpreter
def test_large_batches_take_several_groups_a_program(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = make_logits(3, 3100, 1)
    alone = guided_sample(logits, [1.0], return_logprobs=True)
    monkeypatch.setattr(combine, "PROGRAMS", 1)
    monkeypatch.setattr(card, "card_of", lambda device: replace(card.DEFAULT, processors=5))
    assert combine.groups_a_program(3, 4, 5) == 2
    assert_same_bits(guided_sample(logits, [1.0], return_logprobs=True), alone)


@pytest.mark.device
def test_a_row_of_a_real_vocabulary_may_be_split_in_any_way(monkeypatch: pytest.MonkeyPatch) -> None:
    logits = make_logits(3, 128256, 2, (torch.bfloat16,), device="cuda")
    logits[0][1, 70000] = torch.nan
    samples = []
    for count in (1, 2, 3, 8):
        monkeypatch.setattr(combine, "groups_a_program", lambda B, G, processors, count=count: count)
        samples.append(guided_sample(logits, [1.0, 0.5], return_logprobs=True))
    for other in samples[1:]:
        assert_same_bits(samples[0], other)
