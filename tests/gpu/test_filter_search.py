"""Thresholds on a GPU at full size: hard rows, every setting, every combination of filters."""

import filter_cases as cases
import pytest
import torch
from kernel_cases import make_logits

from genarm_kernels import guided_log_probs

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
CUDA = "cuda"


@pytest.mark.parametrize("V", [50257, 262144])
def test_hard_rows_each_with_a_setting_of_its_own_keep_the_oracle_s_ids(V: int) -> None:
    rows = cases.hard_rows(V, CUDA)
    for turn in range(len(cases.SETTINGS)):
        cases.assert_keeps_the_oracle_s_ids(rows, **cases.columns(len(rows), V, turn, CUDA))


@pytest.mark.parametrize(
    "check",
    [
        cases.top_p_within_top_k_counts_all_of_top_k_s_mass,
        cases.masses_are_compared_to_the_unit,
        cases.top_k_leaves_a_group_that_ties,
    ],
)
def test_check(check) -> None:
    check(CUDA)


def test_every_combination_of_filters_keeps_the_oracle_s_ids() -> None:
    # A row for each: filters that are off there are on in others.
    B = 32
    rows = torch.arange(B, device=CUDA)
    on = {"top_k": 2000, "top_p": 0.9, "min_p": 1e-3, "base_min_p": 1e-4, "base_top_p": 0.97}
    off = {"top_k": 0, "top_p": 1.0, "min_p": 0.0, "base_min_p": 0.0, "base_top_p": 1.0}
    options = {name: torch.where(rows >> bit & 1 == 1, on[name], off[name]) for bit, name in enumerate(on)}
    logits = make_logits(B, 128256, 2, (torch.bfloat16,), device=CUDA)
    for temperature in (1.0, 0.5):
        heat = torch.full((B,), temperature, device=CUDA)
        cases.assert_keeps_the_oracle_s_ids(logits, [1.0, 0.5], temperature=heat, **options)


def test_the_order_of_gathering_changes_nothing() -> None:
    rows = cases.hard_rows(128256, CUDA)
    options = cases.columns(len(rows), 128256, 3, CUDA)
    first = guided_log_probs([rows], [1.0], **options)
    for _ in range(10):
        assert torch.equal(guided_log_probs([rows], [1.0], **options).view(torch.int32), first.view(torch.int32))
