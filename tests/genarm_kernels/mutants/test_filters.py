"""Broken variants of the filters' kernels."""

from collections.abc import Callable

import filter_cases as cases
import pytest
from mutations import Mutation, edited, proofs, replaced

from genarm_kernels.sampling import filters, search

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]


BEFORE_THE_BASE_S_FILTER = "partials.unfiltered_peaks if partials.unfiltered_peaks.numel() else partials.peaks"
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "top-k's bound of one id fewer": (
        edited(filters.bound_kernel, "0, k.to(tl.float64), low, end", "0, k.to(tl.float64) - 1.0, low, end"),
        cases.top_k_keeps_as_many_as_it_says),
    "top-k one too many": (
        edited(filters.select_kernel, "low, end, k.to(tl.float64), top", "low, end, k.to(tl.float64) + 1.0, top"),
        cases.hard_rows_keep_the_oracle_s_ids),
    "top-p's bound too high":
        (edited(filters.bound_kernel, "/ (2.0 * V)", "/ 2.0"), cases.top_p_may_need_almost_every_id),
    "top-p's bound used within top-k": (
        edited(filters.bound_kernel, "tl.where(any_k, by_count, by_mass)", "tl.maximum(by_count, by_mass)"),
        cases.top_p_within_top_k_counts_all_of_top_k_s_mass),
    "min-p's bound used before top-p": (
        edited(filters.bound_kernel, "tl.where(any_p, bound, tl.maximum(bound, by_min_p))",
            "tl.maximum(bound, by_min_p)"),
        cases.top_p_within_top_k_counts_what_min_p_takes),
    "ties at the bound not gathered": (
        edited(filters.gather_kernel, "values >= bound", "values > bound"),
        cases.top_p_within_top_k_counts_ties_at_top_k_s_bound),
    "a group whose peak is the bound not gathered": (
        edited(filters.gather_kernel, "+ g) >= bound", "+ g) > bound"),
        cases.top_p_within_top_k_counts_ties_at_top_k_s_bound),
    "another row's candidates": (
        edited(filters.select_kernel, "candidates += row * (G * GROUP)", "candidates += 0"),
        cases.hard_rows_keep_the_oracle_s_ids),
    "ids above a value counted without those at it": (
        edited(search.search_bits, "tl.where(keys >= trial", "tl.where(keys > trial"),
        cases.hard_rows_keep_the_oracle_s_ids),
    "more than the target asked for": (
        edited(search.search_bits, ".to(tl.float64) >= target", ".to(tl.float64) > target"),
        cases.masses_are_compared_to_the_unit),
    "a mass one unit off": (
        edited(filters.select_kernel, "tl.maximum(total * p.to(tl.float64), 1.0)", "total * p.to(tl.float64) + 1.0"),
        cases.masses_are_compared_to_the_unit),
    "the whole mass as top-k's": (
        edited(filters.select_kernel, "total = mass_from(candidates, n, from_sortable",
            "mass_from(candidates, n, from_sortable"),
        cases.top_p_is_of_what_top_k_left),
    "pivots that leave out what they tie with": (
        edited(search.sums_at, "[:, None] >= pivots", "[:, None] > pivots"),
        cases.many_candidates_keep_the_oracle_s_ids),
    "what lies above the range forgotten": (
        edited(search.narrow, "return low, end, above", "return low, end, above * 0"),
        cases.many_candidates_keep_the_oracle_s_ids),
    "a shortlist with what lies above its range":
        (edited(search.shorten, "(keys < end) & ", ""), cases.many_candidates_are_shortened_to_those_in_range),
    "negative values in reverse":
        (edited(search.sortable, "bits ^ 0xFFFFFFFF", "bits"), cases.hard_rows_keep_the_oracle_s_ids),
    "min-p of the largest before the base's filter": (
        edited(filters.score_threshold, "        filters,\n        partials.peaks,",
            f"        filters,\n        {BEFORE_THE_BASE_S_FILTER},"),
        cases.min_p_is_relative_to_the_largest_that_is_left),
    "groups not summed again":
        (replaced(filters.regroup, lambda *_: None), cases.groups_have_the_mass_of_what_is_left_at_its_temperature),
    "groups summed again with ids below the threshold": (
        edited(filters.regroup_kernel, "tl.where(values >= lowest, values, -INFINITY)", "values"),
        cases.groups_have_the_mass_of_what_is_left_at_its_temperature),
    "groups that tie with the threshold left out":
        (edited(filters.regroup_kernel, "+ at) >= lowest", "+ at) > lowest"), cases.top_k_leaves_a_group_that_ties),
    "groups summed again at temperature 1": (
        edited(filters.regroup_kernel, "inverse_temperature(tl.load(temperature + row)) * LOG2_E",
            "LOG2_E + 0 * tl.load(temperature + row)"),
        cases.groups_have_the_mass_of_what_is_left_at_its_temperature),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
