"""Filters: each against its definition, the oracle on rows that make it hard, and Hugging Face's; rows without one."""

from collections.abc import Callable

import filter_cases as cases
import pytest
import torch
from kernel_cases import make_logits
from torch import Tensor
from transformers.generation.logits_process import (
    LogitsProcessorList,
    MinPLogitsWarper,
    TemperatureLogitsWarper,
    TopKLogitsWarper,
    TopPLogitsWarper,
)

from genarm_kernels import guided_log_probs, guided_sample, reference
from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.sampling import filters

pytestmark = pytest.mark.usefixtures("stale_memory")
CUDA = "cuda"


def kept(logits: Tensor, **options: object) -> list[set[int]]:
    """The ids each row may draw; logits are [B, V] or [V]."""
    log_probs = guided_log_probs([logits.view(-1, logits.shape[-1])], [1.0], **options)
    return [set((row > -torch.inf).nonzero()[:, 0].tolist()) for row in log_probs]


def tied(*values: float) -> Tensor:
    return torch.tensor(values).log()


def test_top_k_keeps_the_k_largest_and_all_that_tie_with_the_last() -> None:
    assert kept(tied(0.1, 0.4, 0.2, 0.3), top_k=2) == [{1, 3}]
    assert kept(tied(0.2, 0.4, 0.2, 0.2), top_k=2) == [{0, 1, 2, 3}]
    assert kept(tied(0.1, 0.4, 0.4, 0.1), top_k=1) == [{1, 2}]


def test_top_p_keeps_ids_until_those_strictly_above_hold_p() -> None:
    assert kept(tied(0.5, 0.25, 0.125, 0.125), top_p=0.6) == [{0, 1}]
    # Just at the mass of those above: the next is dropped.
    assert kept(tied(0.5, 0.25, 0.125, 0.125), top_p=0.5) == [{0}]
    assert kept(tied(0.5, 0.25, 0.125, 0.125), top_p=0.8) == [{0, 1, 2, 3}]
    assert kept(tied(0.5, 0.25, 0.125, 0.125), top_p=0.0) == [{0}]


def test_min_p_keeps_ids_from_a_share_of_the_largest() -> None:
    assert kept(tied(0.5, 0.3, 0.15, 0.05), min_p=0.29) == [{0, 1, 2}]
    assert kept(tied(0.4, 0.4, 0.2), min_p=1.0) == [{0, 1}]


def test_base_filters_look_at_the_base_alone() -> None:
    base, reward = tied(0.5, 0.3, 0.15, 0.05)[None], torch.tensor([[-9.0, 0.0, 1.0, 30.0]])
    for options, expected in (
        ({"base_min_p": 0.29}, {0, 1, 2}),
        ({"base_top_p": 0.6}, {0, 1}),
        ({"base_top_p": 0.6, "base_min_p": 0.9}, {0}),
        # Temperature and bias change nothing of it; the score filters act on what is left.
        ({"base_min_p": 0.29, "temperature": 0.1, "bias": torch.tensor([0.0, 0.0, 0.0, 50.0])}, {0, 1, 2}),
        ({"base_min_p": 0.29, "top_k": 1}, {2}),
    ):
        log_probs = guided_log_probs([base, reward], [1.0, 1.0], **options)[0]
        assert set((log_probs > -torch.inf).nonzero()[:, 0].tolist()) == expected


def test_filters_act_in_their_order() -> None:
    # Renormalised after top-k the first holds 5/9 of the mass, so top-p 0.6 needs the second; before it, 0.5.
    logits = tied(0.5, 0.4, 0.06, 0.04)
    assert kept(logits, top_k=2, top_p=0.55) == [{0}]
    assert kept(logits, top_p=0.55) == [{0, 1}]
    # Temperature first: at 0.5 the first holds 0.61 of the mass.
    assert kept(logits, top_p=0.55, temperature=0.5) == [{0}]
    assert kept(logits, min_p=0.1, temperature=1.0) == [{0, 1, 2}]
    assert kept(logits, min_p=0.1, temperature=0.5) == [{0, 1}]


def test_a_filter_at_its_end_is_off() -> None:
    logits = make_logits(2, 50, 1)
    for name, value in (("top_k", 0), ("top_k", 50), ("top_k", 99), ("top_p", 1.0), ("top_p", 2.0)):
        expected = guided_log_probs(logits, [1.0])
        assert torch.equal(guided_log_probs(logits, [1.0], **{name: value}), expected), name
        assert torch.equal(guided_log_probs(logits, [1.0], **{name: torch.full((2,), value)}), expected), name


def test_rows_without_a_filter_are_not_changed_by_rows_with_one() -> None:
    logits = make_logits(4, 1500, 2)
    plain = guided_sample(logits, [1.0, 0.5], return_logprobs=True)
    for name, off, on in (
        ("top_k", 0, 5),
        ("top_p", 1.0, 0.5),
        ("min_p", 0.0, 0.3),
        ("base_min_p", 0.0, 0.3),
        ("base_top_p", 1.0, 0.5),
    ):
        mixed = guided_sample(logits, [1.0, 0.5], return_logprobs=True, **{name: torch.tensor([off, on, off, on])})
        for b in (0, 2):
            assert mixed.tokens[b] == plain.tokens[b] and mixed.logprobs[b] == plain.logprobs[b]
        whole = guided_sample(logits, [1.0, 0.5], return_logprobs=True, **{name: on})
        for b in (1, 3):
            assert mixed.tokens[b] == whole.tokens[b] and mixed.logprobs[b] == whole.logprobs[b]


@pytest.mark.parametrize(("V", "top_p"), [(300, 0.05), (5000, 0.5), (300, 0.95), (5000, 0.999)])
def test_a_nucleus_of_any_width_is_found(V: int, top_p: float) -> None:
    # Flat rows have nuclei far wider than the part that is sorted first, peaked ones far narrower.
    logits = make_logits(6, V, 1)[0] * torch.tensor([0.01, 0.1, 0.5, 1.0, 3.0, 10.0])[:, None]
    ours = guided_log_probs([logits], [1.0], top_p=top_p)
    expected = reference.guided_log_probs([logits], [1.0], top_p=top_p)
    assert torch.equal(ours > -torch.inf, expected > -torch.inf)


@pytest.mark.parametrize("seed", range(5))
def test_values_on_a_grid_tie_as_the_oracle_s_do(seed: int) -> None:
    # Scores in quarters with dyadic weights are exact in float32: ties are the same ones in both.
    logits = [(z * 2).round() / 2 for z in make_logits(16, 64, 2, seed=seed)]
    for options in (
        {"top_k": 5},
        {"top_k": 7, "top_p": 0.83},
        {"top_p": 0.61},
        {"top_k": 20, "min_p": 0.021, "base_top_p": 0.93, "temperature": 0.5},
        {"base_min_p": 0.033, "temperature": 2.0},
    ):
        ours = guided_log_probs(logits, [1.0, 0.5], **options)
        expected = reference.guided_log_probs(logits, [1.0, 0.5], **options)
        assert torch.equal(ours > -torch.inf, expected > -torch.inf)


@pytest.mark.parametrize(
    ("V", "options"),
    [
        (5, {"top_k": 4}),
        (1100, {"top_p": 0.7}),
        (1100, {"min_p": 0.1}),
        (5, {"temperature": 0.6, "top_k": 4, "top_p": 0.8, "min_p": 0.15}),
        (1100, {"temperature": 1.7, "top_k": 50, "top_p": 0.95}),
        (1100, {"temperature": 0.8, "top_p": 0.9, "min_p": 0.02}),
    ],
    ids=str,
)
def test_agrees_with_the_warpers_of_hugging_face(V: int, options: dict[str, float]) -> None:
    logits = make_logits(8, V, 1)[0]
    warpers = LogitsProcessorList()
    for name, warper in (
        ("temperature", TemperatureLogitsWarper),
        ("top_k", TopKLogitsWarper),
        ("top_p", TopPLogitsWarper),
        ("min_p", MinPLogitsWarper),
    ):
        if name in options:
            warpers.append(warper(options[name]))
    expected = warpers(None, logits.clone()).log_softmax(1)
    torch.testing.assert_close(guided_log_probs([logits], [1.0], **options), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("check", cases.CHECKS, ids=lambda check: check.__name__)
def test_check(check: Callable[[str], None], device: str) -> None:
    check(device)


@pytest.mark.interpreter
@pytest.mark.parametrize("check", cases.INTERPRETED_CHECKS, ids=lambda check: check.__name__)
def test_interpreted_check(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize(
    ("V", "turn"), [(1500, 8)] if INTERPRETED else [*((1500, n) for n in range(12)), (9001, 2), (9001, 8)]
)
def test_hard_rows_each_with_a_setting_of_its_own_keep_the_oracle_s_ids(
    V: int, turn: int, cpu: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Over all turns every row meets every setting. All but the very flattest have more candidates than the kernels'
    # search takes at once, as at full size.
    monkeypatch.setattr(filters, "CAPACITY", cases.FEW)
    rows = cases.hard_rows(V)
    cases.assert_keeps_the_oracle_s_ids(rows, **cases.columns(len(rows), V, turn))


@pytest.mark.interpreter
def test_what_fits_at_once_is_found_as_what_does_not(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = cases.hard_rows(1500)[[0, 3, 5, 7]]
    options = cases.columns(len(rows), 1500, 4)
    whole = guided_log_probs([rows], [1.0], **options)
    monkeypatch.setattr(filters, "CAPACITY", cases.FEW)
    assert torch.equal(guided_log_probs([rows], [1.0], **options), whole)


@pytest.mark.interpreter
def test_more_candidates_than_fit_are_searched() -> None:
    rows = torch.stack([cases.hard_rows(9001)[row] for row in (11, 4, 0)])
    assert filters.CAPACITY < 9001 / 2
    columns = {"top_k": torch.tensor([4500, 0, 9000]), "top_p": torch.tensor([1.0, 0.9, 0.999999])}
    cases.assert_keeps_the_oracle_s_ids(rows, **columns)


def test_base_filters_search_as_the_others_do(cpu: str) -> None:
    rows = cases.hard_rows(1500)[[3, 5, 7] if INTERPRETED else [0, 3, 4, 5, 7, 9]]
    p, share = torch.tensor([[0.9, 0.5, 0.999999, 0.7, 0.3, 0.0], [0.1, 0.5, 1e-30, 1.0, 0.9999, 0.0]])[:, : len(rows)]
    for name, values in (("top_p", p), ("min_p", share)):
        by_base = guided_log_probs([rows], [1.0], **{f"base_{name}": values}) > -torch.inf
        assert torch.equal(by_base, guided_log_probs([rows], [1.0], **{name: values}) > -torch.inf)


@pytest.mark.device
@pytest.mark.parametrize("V", [50257, 262144])
def test_hard_rows_of_real_vocabularies_keep_the_oracle_s_ids(V: int) -> None:
    rows = cases.hard_rows(V, CUDA)
    for turn in range(len(cases.SETTINGS)):
        cases.assert_keeps_the_oracle_s_ids(rows, **cases.columns(len(rows), V, turn, CUDA))


@pytest.mark.device
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


@pytest.mark.device
def test_the_order_of_gathering_changes_nothing() -> None:
    rows = cases.hard_rows(128256, CUDA)
    options = cases.columns(len(rows), 128256, 3, CUDA)
    first = guided_log_probs([rows], [1.0], **options)
    for _ in range(10):
        assert torch.equal(guided_log_probs([rows], [1.0], **options).view(torch.int32), first.view(torch.int32))
