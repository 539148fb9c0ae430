"""Broken variants of the group pass."""

from collections.abc import Callable

import group_cases as cases
import pytest
from filter_cases import groups_have_the_mass_of_what_is_left_at_its_temperature
from mutations import Mutation, edited, proofs

from genarm_kernels.sampling import combine, draw, groups, rules

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter, pytest.mark.usefixtures("stale_memory")]


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "+inf under a negative weight not noticed": (
        edited(groups.load_weights, "negative = negative | (weight < 0.0)", "negative = negative | (weight != weight)"),
        cases.infinity_is_named_whatever_the_sign_of_its_weight),
    "a negative weight seen in the last model only": (
        edited(groups.load_weights, "negative = negative | (weight < 0.0)", "negative = weight < 0.0"),
        cases.infinity_is_named_whatever_the_sign_of_its_weight),
    "NaN not noticed in the plain way": (
        edited(combine.reduce_plainly, "return bad | (total != total)", "return bad"),
        cases.nan_is_named_in_any_group),
    "a bad value hidden by the base's filter": (
        edited(combine.reduce_plainly, "bad = bad | (all_total != all_total)", "bad = bad"),
        cases.a_base_filter_hides_no_bad_value),
    "the careful way skipped for the last short group":
        (edited(combine.group_kernel, "careful = True", "careful = False"), cases.every_group_is_summed_once),
    "the careful way skipped for whole groups": (
        edited(combine.group_kernel, "        if careful:", "        if careful & ((g + 1) * GROUP > V):"),
        cases.nan_is_named_in_any_group),
    "what the first ids showed is forgotten":
        (edited(rules.reduce_carefully, "bits = bits | found", "bits = found"), cases.nan_is_named_in_any_group),
    "the base's filter does not make it examined": (
        edited(rules.combine, "examined | (base_threshold + zeros > -INFINITY)", "examined"),
        cases.a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own),
    "the base's mask ignored at weight 0": (
        edited(rules.combine, "scores = tl.where(z == -INFINITY, z, scores)", "scores = scores"),
        cases.a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own),
    "the base's filter left out of the plain way": (
        edited(combine.reduce_plainly, "base >= base_threshold", "base >= -INFINITY"),
        cases.scores_are_those_of_their_ids),
    "a group summed with its neighbour's ids": (
        edited(combine.reduce_plainly, "logits[m] + row * strides[m], g * GROUP, examine[m]",
            "logits[m] + row * strides[m], (g ^ 1) * GROUP, examine[m]"),
        cases.scores_are_those_of_their_ids),
    "a group's scores stored at its neighbour's ids": (
        edited(combine.reduce_plainly, "aligned(scores + row * (G * GROUP), g * GROUP",
            "aligned(scores + row * (G * GROUP), (g ^ 1) * GROUP"),
        groups_have_the_mass_of_what_is_left_at_its_temperature),
    "another row's bias":
        (edited(combine.group_kernel, "bias += row * bias_stride", "bias += 2"), cases.scores_are_those_of_their_ids),
    "narrow loads of shifted ids": (
        edited(groups.load_group, "first + LANE * tl.arange(0, COUNT)", "first + 1 + LANE * tl.arange(0, COUNT)"),
        cases.alignment_changes_no_bit),
    "narrow loads joined in another order": (
        edited(groups.join_halves, "tl.join(parts[i], parts[i + HALF])", "tl.join(parts[2 * i], parts[2 * i + 1])"),
        cases.alignment_changes_no_bit),
    "a model of weight 0 read in the plain way": (
        edited(combine.reduce_plainly, "examine[m], m == 0 or LOGPROBS,", "examine[m], True,"),
        cases.a_model_of_weight_0_is_not_read),
    "a model of weight 0 read in the careful way":
        (edited(rules.combine, "mask if m == 0 else mask & examined", "mask"), cases.a_model_of_weight_0_is_not_read),
    "every group the careful way too": (
        edited(combine.group_kernel, "        if careful:", "        if careful | (row == row):"),
        cases.a_model_is_read_once_and_its_winning_group_again),
    "the last group of a program left out": (
        edited(combine.group_kernel, "tl.minimum(first + count, G)", "tl.minimum(first + count - (count > 1), G)"),
        cases.a_row_may_be_split_in_any_way),
    "the last program left out":
        (edited(combine.reduce_groups, "-(-G // count)", "max(1, G // count)"), cases.a_row_may_be_split_in_any_way),
    "programs that start at each other's groups": (
        edited(combine.group_kernel, "tl.program_id(1) * count", "tl.program_id(1)"),
        cases.a_row_may_be_split_in_any_way),
    "greedy log-probs after the base's filter": (
        edited(draw.scored_mass, "sums = tl.where(greedy, all_sums, sums)", "sums = sums"),
        cases.greedy_log_probs_are_those_before_the_base_s_filter),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
