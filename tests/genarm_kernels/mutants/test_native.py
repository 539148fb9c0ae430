"""Broken variants of the C sources."""

from __future__ import annotations

from collections.abc import Callable

import group_cases
import kernel_cases as checks
import normalizer_cases
import pytest
from mutations import Mutation, proofs
from native_cases import (
    check_groups_have_their_mass,
    check_long_steps,
    check_odd_places,
    check_products,
    check_steps,
    edited_source,
)

pytestmark = [pytest.mark.mutants, pytest.mark.usefixtures("native_path")]

# name: source, what stands there once, what is put in its place, what notices
PLACES: dict[str, tuple[str, str, str, Callable[[], None]]] = {
    "odd places read with their neighbour's bits": (
        "vector.h", "(floats)(both & 0xffff0000u)", "(floats)both", check_odd_places),
    "truncated to bfloat16": (
        "vector.h", "word + 0x7fff + ((word >> 16) & 1)", "word", check_products),
    "a rest of fewer than sixteen left out": (
        "linear.h", "rest = k; rest < K", "rest = K; rest < K", check_products),
    "the last column of a block left out": (
        "linear.h", "n < least(block + COLUMN_BLOCK, to); n", "n < least(block + COLUMN_BLOCK, to) - 1; n",
        check_products),
    "another row's adapter": (
        "linear.h", "m->up + (adapters[r] *", "m->up + (adapters[0] *", check_steps),
    "one adapter's shrinks for neighbouring rows": (
        "linear.h", "&& adapters[r + run] == adapters[r]", "", check_steps),
    "every target with the first one's shrinks": (
        "linear.h", "h + r * width + t * m->rank", "h + r * width", check_steps),
    "the residual written over": (
        "linear.h", "to.add ? to.wide[place] + value : value", "value", check_steps),
    "the newest position unseen": (
        "attention.h", "least(to, length - a->Q + q + 1)", "least(to, length - a->Q + q)", check_steps),
    "one position too many in the window": (
        "attention.h", "token.position - a->window + 1;", "token.position - a->window;", check_steps),
    "chunks joined without their maxima": (
        "attention.h", "expf(part[0] - most)", "1.0f", check_long_steps),
    "rotated the other way": (
        "attention.h", "cos[d] - plain[half + d]", "cos[d] + plain[half + d]", check_steps),
    "the gate times itself": (
        "decoder.h", "silu(all(row[k]))[0] * row[width + k]", "silu(all(row[k]))[0] * row[k]", check_steps),
    "group noise reused as token noise": (
        "sampling.h", "#define TOKEN_NOISE 2", "#define TOKEN_NOISE 1",
        checks.check_group_and_token_noise_are_independent),
    "reused seed": (
        "sampling.h", "(uint64_t)seeds[row]", "(uint64_t)seeds[0]",
        checks.check_rows_and_positions_draw_their_own_noise),
    "ignored position": (
        "sampling.h", "(uint64_t)positions[row]", "0", checks.check_rows_and_positions_draw_their_own_noise),
    "the last id out of reach": (
        "sampling.h", "scores[id] = id < c->V ?", "scores[id] = id < c->V - 1 ?", checks.check_the_last_id_is_reached),
    "ids beyond the vocabulary": (
        "sampling.h", "scores[id] = id < c->V ?", "scores[id] = id < c->V + 1 ?",
        checks.check_nothing_beyond_the_vocabulary_exists),
    "every model with the first one's weight": (
        "sampling.h", "s.first += z.first * weight;", "s.first += z.first * c->weights[row * c->M];",
        checks.check_weights_belong_to_their_models),
    "every group with the same mass": (
        "sampling.h", "*mass = sum(total);", "*mass = 1.0f;", check_groups_have_their_mass),
    "+inf not noticed": (
        "sampling.h", "(z.first < INFINITY) & (z.second < INFINITY)", "(z.first == z.first) & (z.second == z.second)",
        group_cases.infinity_is_named_whatever_the_sign_of_its_weight),
    "the base's mask ignored at weight 0": (
        "sampling.h", "s.first = choose(z.first == -INFINITY, all(-INFINITY), s.first);", "",
        group_cases.a_base_of_weight_0_is_examined_just_under_a_filter_of_its_own),
    "every model's mass the first one's": (
        "sampling.h", "model_mass(logits[m] + row * strides[m]", "model_mass(logits[0] + row * strides[m]",
        normalizer_cases.it_is_the_mass_that_is_left_of_the_product),
    "a model's ids beyond the vocabulary": (
        "sampling.h", "values[i] = i < count ?", "values[i] = i < count + 1 ?",
        normalizer_cases.ids_beyond_the_vocabulary_have_no_mass),
    "groups joined at temperature 1": (
        "sampling.h", "expf((peaks[g] - top) * inverse_temperature[row])", "expf(peaks[g] - top)",
        normalizer_cases.it_is_0_for_one_model_and_follows_bias_and_temperature),
    "groups joined without their peaks": (
        "sampling.h", "masses[g] * expf(", "masses[g] + 0.0f * expf(",
        normalizer_cases.it_is_the_mass_that_is_left_of_the_product),
}  # fmt: skip
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    name: (edited_source(file, old, new), check) for name, (file, old, new, check) in PLACES.items()
}
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
