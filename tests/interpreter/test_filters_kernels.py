"""The search for thresholds in Triton's interpreter: rows that make it hard, more candidates than fit, mixed rows."""

from collections.abc import Callable

import filter_cases as cases
import pytest
import torch
from kernel_cases import assert_same_bits, make_logits
from mutations import Mutation, assert_killed, edited, replaced
from torch import Tensor

from genarm_kernels import guided_log_probs, guided_sample
from genarm_kernels.sampling import filters, search

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
V = 1500
FEW = 64
new_empty = Tensor.new_empty


@pytest.fixture(autouse=True)
def what_is_not_written_is_7(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(7))


def many_candidates_keep_the_oracle_s_ids() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "CAPACITY", FEW)
        rows = cases.hard_rows(V)
        cases.assert_keeps_the_oracle_s_ids(rows, **cases.columns(len(rows), V, 3))


def many_candidates_are_shortened_to_those_in_range() -> None:
    # 1,024 values a step apart, of which just k stay wherever the range of the k-th begins and ends.
    logits = torch.full((1, 1100), -torch.inf)
    logits[0, :1024] = torch.arange(1024) * 2.0**-10
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(filters, "CAPACITY", FEW)
        for k in (1, 63, 300, 301, 640, 1023):
            assert int(cases.kept(logits, top_k=k).sum()) == k


LOCAL = (many_candidates_keep_the_oracle_s_ids, many_candidates_are_shortened_to_those_in_range)


@pytest.mark.parametrize("check", [*cases.CHECKS, *LOCAL], ids=lambda check: check.__name__)
def test_check(check: Callable[[], None]) -> None:
    check()


@pytest.mark.parametrize("turn", range(len(cases.SETTINGS)), ids=[f"turn {n}" for n in range(len(cases.SETTINGS))])
def test_hard_rows_each_with_a_setting_of_its_own_keep_the_oracle_s_ids(
    turn: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Over all turns every row meets every setting. All but the very flattest have more candidates than the search
    # takes at once, as at full size.
    monkeypatch.setattr(filters, "CAPACITY", FEW)
    rows = cases.hard_rows(V)
    cases.assert_keeps_the_oracle_s_ids(rows, **cases.columns(len(rows), V, turn))


@pytest.mark.parametrize("turn", [4])
def test_what_fits_at_once_is_found_as_what_does_not(turn: int, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = cases.hard_rows(V)
    options = cases.columns(len(rows), V, turn)
    whole = guided_log_probs([rows], [1.0], **options)
    monkeypatch.setattr(filters, "CAPACITY", FEW)
    assert torch.equal(guided_log_probs([rows], [1.0], **options), whole)


@pytest.mark.parametrize(
    "settings", [{"top_k": [4500, 9000, 0]}, {"top_p": [0.999999, 0.9, 1.0]}], ids=["top_k", "top_p"]
)
def test_more_candidates_than_fit_are_searched(settings: dict[str, list[float]]) -> None:
    rows = torch.stack([cases.hard_rows(9001)[row] for row in (11, 4, 0)])
    assert filters.CAPACITY < 9001 / 2
    cases.assert_keeps_the_oracle_s_ids(rows, **{name: torch.tensor(values) for name, values in settings.items()})


def test_base_filters_search_as_the_others_do() -> None:
    rows = cases.hard_rows(V)[[0, 3, 4, 5, 7, 9]]
    p = torch.tensor([0.9, 0.5, 0.7, 0.999999, 0.3, 0.0])
    by_base = guided_log_probs([rows], [1.0], base_top_p=p) > -torch.inf
    assert torch.equal(by_base, guided_log_probs([rows], [1.0], top_p=p) > -torch.inf)
    share = torch.tensor([0.1, 0.5, 1.0, 1e-30, 0.9999, 0.0])
    by_base = guided_log_probs([rows], [1.0], base_min_p=share) > -torch.inf
    assert torch.equal(by_base, guided_log_probs([rows], [1.0], min_p=share) > -torch.inf)


def test_a_row_s_filter_does_not_depend_on_the_other_rows() -> None:
    logits = make_logits(5, 1100, 2)
    options = {
        "temperature": torch.tensor([1.0, 0.0, 0.7, 1.0, 1.5]),
        "top_k": torch.tensor([0, 5, 0, 0, 50]),
        "top_p": torch.tensor([1.0, 0.9, 0.5, 1.0, 1.0]),
        "min_p": torch.tensor([0.0, 0.0, 0.0, 0.1, 0.0]),
        "base_top_p": torch.tensor([1.0, 1.0, 0.9, 1.0, 1.0]),
    }
    plain = guided_sample([z[:1] for z in logits], [1.0, 0.5], seed=torch.tensor([3]), return_logprobs=True)
    whole = guided_sample(logits, [1.0, 0.5], seed=torch.full((5,), 3), return_logprobs=True, **options)
    # A row without a filter among filtered ones draws what it draws where nothing filters.
    assert_same_bits(plain, type(plain)(*(x[:1] for x in whole)))


BEFORE_THE_BASE_S_FILTER = "partials.unfiltered_peaks if partials.unfiltered_peaks.numel() else partials.peaks"
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "top-k's bound of one id fewer": (
        edited(filters.bound_kernel, "0, k.to(tl.float64), low, end", "0, k.to(tl.float64) - 1.0, low, end"),
        cases.top_k_keeps_as_many_as_it_says,
    ),
    "top-k one too many": (
        edited(filters.select_kernel, "low, end, k.to(tl.float64), top", "low, end, k.to(tl.float64) + 1.0, top"),
        cases.hard_rows_keep_the_oracle_s_ids,
    ),
    "top-p's bound too high": (
        edited(filters.bound_kernel, "/ (2.0 * V)", "/ 2.0"),
        cases.top_p_may_need_almost_every_id,
    ),
    "top-p's bound used within top-k": (
        edited(filters.bound_kernel, "tl.where(any_k, by_count, by_mass)", "tl.maximum(by_count, by_mass)"),
        cases.top_p_within_top_k_counts_all_of_top_k_s_mass,
    ),
    "min-p's bound used before top-p": (
        edited(
            filters.bound_kernel, "tl.where(any_p, bound, tl.maximum(bound, by_min_p))", "tl.maximum(bound, by_min_p)"
        ),
        cases.top_p_within_top_k_counts_what_min_p_takes,
    ),
    "ties at the bound not gathered": (
        edited(filters.gather_kernel, "values >= bound", "values > bound"),
        cases.top_p_within_top_k_counts_ties_at_top_k_s_bound,
    ),
    "a group whose peak is the bound not gathered": (
        edited(filters.gather_kernel, "+ g) >= bound", "+ g) > bound"),
        cases.top_p_within_top_k_counts_ties_at_top_k_s_bound,
    ),
    "another row's candidates": (
        edited(filters.select_kernel, "candidates += row * (G * GROUP)", "candidates += 0"),
        cases.hard_rows_keep_the_oracle_s_ids,
    ),
    "ids above a value counted without those at it": (
        edited(search.search_bits, "tl.where(keys >= trial", "tl.where(keys > trial"),
        cases.hard_rows_keep_the_oracle_s_ids,
    ),
    "more than the target asked for": (
        edited(search.search_bits, ".to(tl.float64) >= target", ".to(tl.float64) > target"),
        cases.masses_are_compared_to_the_unit,
    ),
    "a mass one unit off": (
        edited(filters.select_kernel, "tl.maximum(total * p.to(tl.float64), 1.0)", "total * p.to(tl.float64) + 1.0"),
        cases.masses_are_compared_to_the_unit,
    ),
    "the whole mass as top-k's": (
        edited(
            filters.select_kernel,
            "total = mass_from(candidates, n, from_sortable",
            "mass_from(candidates, n, from_sortable",
        ),
        cases.top_p_is_of_what_top_k_left,
    ),
    "pivots that leave out what they tie with": (
        edited(search.sums_at, "[:, None] >= pivots", "[:, None] > pivots"),
        many_candidates_keep_the_oracle_s_ids,
    ),
    "what lies above the range forgotten": (
        edited(search.narrow, "return low, end, above", "return low, end, above * 0"),
        many_candidates_keep_the_oracle_s_ids,
    ),
    "a shortlist with what lies above its range": (
        edited(search.shorten, "(keys < end) & ", ""),
        many_candidates_are_shortened_to_those_in_range,
    ),
    "negative values in reverse": (
        edited(search.sortable, "bits ^ 0xFFFFFFFF", "bits"),
        cases.hard_rows_keep_the_oracle_s_ids,
    ),
    "min-p of the largest before the base's filter": (
        edited(
            filters.score_threshold,
            "        filters,\n        partials.peaks,",
            f"        filters,\n        {BEFORE_THE_BASE_S_FILTER},",
        ),
        cases.min_p_is_relative_to_the_largest_that_is_left,
    ),
    "groups not summed again": (
        replaced(filters.regroup, lambda *_: None),
        cases.groups_have_the_mass_of_what_is_left_at_its_temperature,
    ),
    "groups summed again with ids below the threshold": (
        edited(filters.regroup_kernel, "tl.where(values >= lowest, values, -INFINITY)", "values"),
        cases.groups_have_the_mass_of_what_is_left_at_its_temperature,
    ),
    "groups that tie with the threshold left out": (
        edited(filters.regroup_kernel, "+ at) >= lowest", "+ at) > lowest"),
        cases.top_k_leaves_a_group_that_ties,
    ),
    "groups summed again at temperature 1": (
        edited(
            filters.regroup_kernel,
            "inverse_temperature(tl.load(temperature + row)) * LOG2_E",
            "LOG2_E + 0 * tl.load(temperature + row)",
        ),
        cases.groups_have_the_mass_of_what_is_left_at_its_temperature,
    ),
}


@pytest.mark.parametrize(("mutate", "check"), MUTANTS.values(), ids=MUTANTS.keys())
def test_a_mutant_is_killed_by_its_check(
    monkeypatch: pytest.MonkeyPatch, mutate: Mutation, check: Callable[[], None]
) -> None:
    assert_killed(monkeypatch, mutate, check)
