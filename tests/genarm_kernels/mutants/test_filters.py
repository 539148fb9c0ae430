"""Broken variants of the filters' kernels."""

from collections.abc import Callable

import bound_cases
import filter_cases as cases
import pytest
from mutations import Mutation, edited, proofs, replaced

from genarm_kernels.sampling import bounds, combine, filters, groups, rules, search

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]


BEFORE_THE_BASE_S_FILTER = "partials.unfiltered_peaks if partials.unfiltered_peaks.numel() else partials.peaks"
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "top-k's bound of one id fewer": (
        edited(bounds.bound_kernel, "0, k.to(tl.float64), low, end", "0, k.to(tl.float64) - 1.0, low, end"),
        cases.top_k_keeps_as_many_as_it_says),
    "top-k one too many": (
        edited(filters.select_kernel, "low, end, k.to(tl.float64), top", "low, end, k.to(tl.float64) + 1.0, top"),
        cases.hard_rows_keep_the_oracle_s_ids),
    "top-p's bound too high":
        (edited(bounds.bound_kernel, "/ (2.0 * V)", "/ 2.0"), cases.top_p_may_need_almost_every_id),
    "top-p's bound used within top-k": (
        edited(bounds.bound_kernel, "tl.where(any_k, by_count, by_mass)", "tl.maximum(by_count, by_mass)"),
        cases.top_p_within_top_k_counts_all_of_top_k_s_mass),
    "min-p's bound used before top-p": (
        edited(bounds.bound_kernel, "tl.where(any_p, bound, tl.maximum(bound, by_min_p))",
            "tl.maximum(bound, by_min_p)"),
        cases.top_p_within_top_k_counts_what_min_p_takes),
    "ties at the bound not gathered": (
        edited(filters.gather_kernel, "values >= bound", "values > bound"),
        cases.top_p_within_top_k_counts_ties_at_top_k_s_bound),
    "subgroups whose peak is the bound not gathered": (
        edited(filters.reaching, ">= lowest", "> lowest"),
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
        edited(bounds.bound, "        partials.peaks,", f"        {BEFORE_THE_BASE_S_FILTER},"),
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
    "no bound beyond one id per group":
        (edited(bounds.bound_kernel, "k <= G * SUBGROUPS", "k <= G"), bound_cases.the_bound_is_the_kth_largest_peak),
    "the last subgroup left out": (
        edited(bounds.bound_kernel, "mask=places < G * SUBGROUPS", "mask=places < G * SUBGROUPS - 1"),
        bound_cases.the_bound_is_the_kth_largest_peak),
    "scores in places of no subgroup":
        (edited(bounds.bound_kernel, "other=-INFINITY", "other=9.0"), bound_cases.the_bound_is_the_kth_largest_peak),
    "another row's subgroups": (
        edited(bounds.bound_kernel, "subgroup_peaks + row * (G * SUBGROUPS)", "subgroup_peaks + 0"),
        bound_cases.the_bound_is_the_kth_largest_peak),
    "a bound for what a greedy row has not stored": (
        edited(bounds.bound_kernel, "any_k = on & (k > 0)", "any_k = (k > 0)"),
        bound_cases.a_greedy_row_keeps_to_its_argmax_among_filtered_ones),
    "the scores of a subgroup's last run alone": (
        edited(groups.subgroup_peaks, "tl.max(tl.max(tl.reshape(values, [RUNS, SUBGROUPS, RUN]), 2), 0)",
            "tl.max(tl.where(tl.arange(0, RUNS)[:, None] == RUNS - 1, "
            "tl.max(tl.reshape(values, [RUNS, SUBGROUPS, RUN]), 2), -INFINITY), 0)"),
        bound_cases.the_group_pass_leaves_the_peak_of_every_subgroup),
    "the first ids of a group going id by id forgotten": (
        edited(rules.reduce_carefully, "peaks = tl.maximum(peaks, subgroup_peaks(kept))",
            "peaks = subgroup_peaks(kept)"),
        bound_cases.the_group_pass_leaves_the_peak_of_every_subgroup),
    "subgroups of no id at 0": (
        edited(rules.reduce_carefully, "peaks = tl.full([SUBGROUPS], -INFINITY", "peaks = tl.full([SUBGROUPS], 0.0"),
        bound_cases.the_group_pass_leaves_the_peak_of_every_subgroup),
    "a last group of fewer ids without subgroups": (
        edited(rules.reduce_carefully, "store_subgroups(partials, row * G + g, peaks)", "pass"),
        bound_cases.the_group_pass_leaves_the_peak_of_every_subgroup),
    "subgroups with what the base's filter took": (
        edited(rules.reduce_carefully, "subgroup_peaks(kept)", "subgroup_peaks(values)"),
        bound_cases.the_group_pass_leaves_the_peak_of_every_subgroup),
    "whole groups without subgroups": (
        edited(combine.reduce_plainly, "store_subgroups(partials, row * G + g, subgroup_peaks(values))", "pass"),
        bound_cases.the_group_pass_leaves_the_peak_of_every_subgroup),
    "another group's subgroups gathered": (
        edited(filters.gather_kernel, "(row * G + g) * SUBGROUPS", "(row * G) * SUBGROUPS"),
        bound_cases.rows_with_a_bound_keep_the_oracle_s_ids),
    "another group's subgroups summed again": (
        edited(filters.regroup_kernel, "subgroup_peaks + at * SUBGROUPS", "subgroup_peaks + row * G * SUBGROUPS"),
        bound_cases.rows_with_a_bound_keep_the_oracle_s_ids),
    "runs of 16 ids read for those of 8": (
        edited(filters.load_reaching, "[RUNS, SUBGROUPS, RUN]", "[RUN, SUBGROUPS, RUNS]"),
        bound_cases.rows_with_a_bound_keep_the_oracle_s_ids),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
