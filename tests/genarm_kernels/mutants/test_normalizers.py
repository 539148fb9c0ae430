"""Broken variants of the sums that log_normalizers is made of, in the kernels."""

from collections.abc import Callable

import group_cases
import normalizer_cases as cases
import pytest
import rule_cases
from mutations import Mutation, edited, proofs

from genarm_kernels.sampling import combine, draw, rules

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]


def nothing_left_is_no_mass() -> None:
    rule_cases.a_row_with_nothing_left_takes_the_base_s_best_or_0("cpu")


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the mass before the base's filter": (
        edited(draw.scored_mass, "sums = tl.where(greedy, all_sums, sums)", "sums = all_sums"),
        cases.normalizers_alone_are_the_oracle_s),
    "a greedy row's mass after the base's filter": (
        edited(draw.scored_mass, "sums = tl.where(greedy, all_sums, sums)", "sums = sums"),
        cases.normalizers_alone_are_the_oracle_s),
    "filters left out": (
        edited(draw.draw_kernel, "top, log_total = scored_mass(partials, row, row_peaks, row_sums,",
            "top, log_total = scored_mass(partials, row, row_peaks, row_sums * 0.0 + tl.load("
            "partials.unfiltered_sums + row * G + g, mask=g < G, other=0.0),"),
        cases.normalizers_alone_are_the_oracle_s),
    "models' own normalisers at temperature 1": (
        edited(draw.product_mass, "weight * (own_top", "weight / inverse.to(tl.float64) * (own_top"),
        cases.normalizers_alone_are_the_oracle_s),
    "a model of weight 0 counted": (
        edited(draw.product_mass, "tl.where(weight != 0.0,", "tl.where(weight == weight,"),
        cases.an_empty_model_of_weight_0_is_not_counted),
    "a model of weight 0 examined": (
        edited(rules.combine, "examined = examine[m] + zeros != 0.0", "examined = mask"),
        cases.normalizers_alone_are_the_oracle_s),
    "a model of weight 0 read for its own sum": (
        edited(rules.reduce_carefully, "read = read & (", "read = read | ("),
        group_cases.a_model_of_weight_0_is_not_read),
    "every model's normaliser the base's": (
        edited(draw.product_mass, "(row * M + m) * G", "row * M * G"), cases.normalizers_alone_are_the_oracle_s),
    "bias left out of the mass": (
        edited(draw.draw_kernel, "top, log_total = scored_mass(partials, row, row_peaks,",
            "top, log_total = scored_mass(partials, row, row_peaks - tl.load(bias + row * bias_stride),"),
        cases.scores_may_come_as_a_bias),
    "models of others' scores not read": (
        edited(combine.with_shares, "tl.abs(weights[m]) + tl.abs(tl.load(shares + m))", "weights[m]"),
        cases.scores_may_come_as_a_bias),
    "another row's shares": (
        edited(draw.draw_kernel, "shares + row * M, 1", "shares, 1"), cases.scores_may_come_as_a_bias),
    "nothing left is not told from a bad model": (
        edited(draw.product_mass, "status == _NOTHING_LEFT", "status != _NOTHING_LEFT"), nothing_left_is_no_mass),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
