"""Broken variants of the torch path."""

from collections.abc import Callable
from dataclasses import replace

import filter_cases
import group_cases
import kernel_cases as checks
import normalizer_cases
import pytest
import torch
from mutations import Mutation, edited, proofs
from torch import Tensor

from genarm_kernels import noise
from genarm_kernels.sampling import cpu, cpu_masses, sample
from genarm_kernels.sampling import cpu_filters as filters
from genarm_kernels.sampling.arguments import GROUP_SIZE, Inputs

pad_groups, noise_words, prepare = filters.pad_groups, noise.noise_words, sample.prepare
race, group_masses, weighted_sum, combine = cpu._race, cpu.group_masses, cpu._weighted_sum, cpu._combine

pytestmark = [pytest.mark.mutants, pytest.mark.usefixtures("torch_path")]


def swap(target: object, name: str, value: object) -> Mutation:
    return lambda monkeypatch: monkeypatch.setattr(target, name, value)


def mask_off_by_one(values: Tensor) -> Tensor:
    return pad_groups(torch.cat([values[:, :-1], values.new_full((values.shape[0], 1), -torch.inf)], 1))


def last_tile_dropped(values: Tensor) -> Tensor:
    padded = pad_groups(values)
    if padded.shape[1] > GROUP_SIZE:
        padded[:, -GROUP_SIZE:] = -torch.inf
    return padded


def short_group_read_as_full(*arguments: object) -> Inputs:
    inputs = prepare(*arguments)
    widest = min(z.shape[1] for z in inputs.logits)
    return replace(inputs, vocab_size=min(inputs.groups * GROUP_SIZE, widest))


def seed_reused(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
    return noise_words(torch.zeros_like(seeds), positions, ids, purpose)


def position_ignored(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
    return noise_words(seeds, torch.zeros_like(positions), ids, purpose)


def position_and_seed_folded(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
    return noise_words((seeds ^ positions) & 0xFFFFFFFF, torch.zeros_like(positions), ids, purpose)


def purpose_left_out(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
    return noise_words(seeds, positions, ids, noise.TOKEN.value)


def weights_swapped(inputs: Inputs, examined: Tensor) -> tuple[Tensor, Tensor]:
    return weighted_sum(replace(inputs, weights=inputs.weights.roll(1, 1)), examined)


def mass_before_the_filter(kept: Tensor, masses: object, inputs: Inputs) -> Tensor:
    whole = combine(inputs)
    return race(kept, group_masses(whole.scores, whole.inverse_temperature), inputs)


def empty_group_gives_nan(values: Tensor, inverse: Tensor, kernels: None = None) -> object:
    sound = group_masses(values, inverse)
    return sound._replace(sums=torch.where(sound.peaks > -1e38, sound.sums, torch.nan))


def pair_hashed_to_32_bits(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
    mixed = (seeds * 0x9E3779B1 ^ positions * 0x85EBCA77) * 0x27D4EB2F165667C5 >> 20 & 0xFFFFFFFF
    return noise_words(mixed, torch.zeros_like(positions), ids, purpose)


def uniforms_of_24_bits(words: Tensor) -> Tensor:
    return -torch.log1p(-((words >> 8).float() + 0.5) * 2.0**-24)


def uniforms_that_reach_1(words: Tensor) -> Tensor:
    return -torch.log1p(-((words.float() + 0.5) * 2.0**-32))


def exponentials_keep_every_bit() -> None:
    checks.check_exponentials_keep_every_bit(noise.exponential)


def exponentials_have_their_tail() -> None:
    checks.check_exponentials_have_their_tail(noise.exponential)


def pairs_share_no_noise() -> None:
    checks.check_pairs_share_no_noise(noise.noise_words)


def exponentials_are_finite_and_positive() -> None:
    checks.check_exponentials_are_finite_and_positive(noise.exponential)


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "off-by-one mask": (swap(filters, "pad_groups", mask_off_by_one), checks.check_the_last_id_is_reached),
    "dropped last tile": (swap(filters, "pad_groups", last_tile_dropped), checks.check_the_last_id_is_reached),
    "short last group read as full":
        (swap(sample, "prepare", short_group_read_as_full), checks.check_nothing_beyond_the_vocabulary_exists),
    "reused seed": (swap(noise, "noise_words", seed_reused), checks.check_rows_and_positions_draw_their_own_noise),
    "ignored position":
        (swap(noise, "noise_words", position_ignored), checks.check_rows_and_positions_draw_their_own_noise),
    "seed and position folded into 32 bits":
        (swap(noise, "noise_words", position_and_seed_folded), checks.check_rows_and_positions_draw_their_own_noise),
    "group noise reused as token noise":
        (swap(noise, "noise_words", purpose_left_out), checks.check_group_and_token_noise_are_independent),
    "swapped weight": (swap(cpu, "_weighted_sum", weights_swapped), checks.check_weights_belong_to_their_models),
    "group mass taken before the filter":
        (swap(cpu, "_race", mass_before_the_filter), checks.check_groups_race_with_their_filtered_mass),
    "all-masked group giving NaN":
        (swap(cpu, "group_masses", empty_group_gives_nan), checks.check_an_excluded_group_is_passed_over),
    "24-bit uniforms": (swap(noise, "exponential", uniforms_of_24_bits), exponentials_keep_every_bit),
    "24-bit uniforms, by their tail": (swap(noise, "exponential", uniforms_of_24_bits), exponentials_have_their_tail),
    "seed and position hashed to 32 bits": (swap(noise, "noise_words", pair_hashed_to_32_bits), pairs_share_no_noise),
    "u = 1": (swap(noise, "exponential", uniforms_that_reach_1), exponentials_are_finite_and_positive),
    "+inf under a negative weight not noticed": (
        edited(cpu._weighted_sum, "(~(z.amax(1) < torch.inf) & examined", "(z.amax(1).isnan() & examined"),
        group_cases.infinity_is_named_whatever_the_sign_of_its_weight),
    "NaN not noticed": (
        edited(cpu._weighted_sum, "~(z.amax(1) < torch.inf)", "(z.amax(1) == torch.inf)"),
        group_cases.nan_is_named_in_any_group),
    "the base's filter does not make it examined": (
        edited(cpu._examined, "examined[:, 0] |= filters.base_filter_on(inputs)", "pass"),
        group_cases.a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own),
    "a model of weight 0 in the sum": (
        edited(cpu._weighted_sum, "part = torch.where(used[:, m, None], part, 0.0)", "pass"),
        group_cases.a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own),
    "the base's mask ignored at weight 0": (
        edited(cpu._weighted_sum, "part = part.masked_fill_(z == -torch.inf, -torch.inf)", "pass"),
        group_cases.a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own),
    "a group summed with its neighbour's ids": (
        edited(cpu.group_masses, "GROUP_SIZE, GROUP_SIZE)", "GROUP_SIZE, GROUP_SIZE).roll(1, 1)"),
        group_cases.scores_are_those_of_their_ids),
    "greedy log-probs after the base's filter": (
        edited(cpu._unfiltered_where_greedy, "combined.scores, combined.kept", "combined.kept, combined.kept"),
        group_cases.greedy_log_probs_are_those_before_the_base_s_filter),
    "top-k one too many": (
        edited(filters._top_k, "torch.where(off, 1, top_k) - 1", "torch.where(off, 1, top_k)"),
        filter_cases.top_k_keeps_as_many_as_it_says),
    "ties at the threshold dropped": (
        edited(cpu._combine, "kept >= threshold[:, None]", "kept > threshold[:, None]"),
        filter_cases.top_k_keeps_as_many_as_it_says),
    "top-p keeps nothing at 0": (
        edited(filters._top_p, "leading.gather(1, (inside.clamp_min(1) - 1)",
            "leading.add(1).gather(1, (inside.clamp_min(1) - 1)"),
        filter_cases.masses_are_compared_to_the_unit),
    "a mass one unit off": (
        edited(filters._top_p, "above.double() < reach[:, None]", "above.double() < reach[:, None] + 1"),
        filter_cases.masses_are_compared_to_the_unit),
    "top-p of the whole mass within top-k": (
        edited(filters.score_threshold, "mass = torch.where(scores >= threshold[:, None], mass, 0)", "pass"),
        filter_cases.top_p_is_of_what_top_k_left),
    "a nucleus that ends where the first sort does":
        (edited(filters._top_p, "length == N or", "True or"), filter_cases.top_p_may_need_almost_every_id),
    "min-p of the largest before the base's filter": (
        edited(cpu._combine, "filters.score_threshold(kept, inputs)", "filters.score_threshold(scores, inputs)"),
        filter_cases.min_p_is_relative_to_the_largest_that_is_left),
    "filters left out of the normaliser": (
        edited(cpu._sample_block, "masses.totals(), model", "group_masses(combined.scores, inverse).totals(), model"),
        normalizer_cases.it_is_the_mass_that_is_left_of_the_product),
    "the mass before the base's filter": (
        edited(cpu._sample_block, "masses.totals(), model", "group_masses(combined.scores, inverse).totals(), model"),
        normalizer_cases.a_base_filter_alone_leaves_out_its_mass),
    "bias left out of the normaliser": (
        edited(cpu._sample_block, "masses.totals(), model",
            "group_masses(combined.kept - (inputs.bias is not None) * 2.0, inverse).totals(), model"),
        normalizer_cases.it_is_0_for_one_model_and_follows_bias_and_temperature),
    "models' own normalisers at temperature 1": (
        edited(cpu_masses.log_normalizers, "own.log_total.double())", "own.log_total.double()) / inverse_temperature"),
        normalizer_cases.it_is_the_mass_that_is_left_of_the_product),
    "a model of weight 0 in the normaliser": (
        edited(cpu_masses.log_normalizers, "torch.where(weight != 0,", "torch.where(weight == weight,"),
        normalizer_cases.a_model_of_weight_0_is_neither_examined_nor_counted),
    "a model of weight 0 examined for the normaliser": (
        edited(cpu._examined, "examined |= inputs.shares != 0", "examined |= True"),
        normalizer_cases.a_model_of_weight_0_is_neither_examined_nor_counted),
    "models of others' scores not examined": (
        edited(cpu._examined, "examined |= inputs.shares != 0", "pass"), normalizer_cases.scores_may_come_as_a_bias),
    "a greedy row's normaliser after the filters": (
        edited(cpu._unfiltered_where_greedy, "combined.scores, combined.kept", "combined.kept, combined.kept"),
        normalizer_cases.greedy_rows_have_that_of_all_ids_at_temperature_1),
    "nothing left is not told from a bad model": (
        edited(cpu_masses.log_normalizers, "status == NOTHING_LEFT", "status != NOTHING_LEFT"),
        normalizer_cases.nothing_left_is_no_mass_and_a_bad_model_none_that_is_known),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
