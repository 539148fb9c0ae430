"""Broken variants of the sampling kernels: masks, noise, weights, exponentials."""

from collections.abc import Callable
from dataclasses import replace

import kernel_cases as checks
import pytest
import torch
import triton
import triton.language as tl
from mutations import Mutation, proofs

from genarm_kernels import noise, reference
from genarm_kernels.sampling import combine, draw, groups, rules, sample
from genarm_kernels.sampling.arguments import GROUP_SIZE, Inputs

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter]

INFINITY = groups.INFINITY
prepare, sound_noise = sample.prepare, noise.noise_kernel
sound_weights = combine.load_weights


def swap(name: str, value: object, *modules: object) -> Mutation:
    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        for module in modules:
            monkeypatch.setattr(module, name, value)

    return mutate


def mask_off_by_one(*arguments: object) -> Inputs:
    inputs = prepare(*arguments)
    return replace(inputs, vocab_size=max(1, inputs.vocab_size - 1))


def short_group_read_as_full(*arguments: object) -> Inputs:
    inputs = prepare(*arguments)
    widest = min(z.shape[1] for z in inputs.logits)
    return replace(inputs, vocab_size=min(inputs.groups * GROUP_SIZE, widest))


def last_tile_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Inputs, "groups", property(lambda self: max(1, self.vocab_size // GROUP_SIZE)))


@triton.jit
def seed_reused(seed, position, ids, PURPOSE: tl.constexpr):
    return sound_noise(seed * 0, position, ids, PURPOSE)


@triton.jit
def position_ignored(seed, position, ids, PURPOSE: tl.constexpr):
    return sound_noise(seed, position * 0, ids, PURPOSE)


@triton.jit
def high_words_left_out(seed, position, ids, PURPOSE: tl.constexpr):
    return sound_noise(seed & 0xFFFFFFFF, position & 0xFFFFFFFF, ids, PURPOSE)


@triton.jit
def purpose_left_out(seed, position, ids, PURPOSE: tl.constexpr):
    return sound_noise(seed, position, ids, noise.TOKEN)


@triton.jit
def weights_swapped(weights, stride, M: tl.constexpr):
    return sound_weights(weights + (M - 1) * stride, -stride, M)


@triton.jit
def empty_group_gives_nan(peak, total, values, rate, LANE: tl.constexpr):
    top = tl.maximum(peak, tl.max(values, 0))
    top = tl.where(top > groups.LOWEST, top, -INFINITY)
    return top, total + tl.sum(tl.exp2((values - top) * rate), 0)


@triton.jit
def uniforms_of_24_bits(words):
    return -tl.log(1.0 - ((words >> 8).to(tl.float32) + 0.5) * 5.9604644775390625e-08)


@triton.jit
def uniforms_that_reach_1(words):
    return -tl.log(1.0 - (words.to(tl.float32) + 0.5) * 2.3283064365386963e-10)


def rows_and_positions_draw_their_own_noise() -> None:
    checks.check_rows_and_positions_draw_their_own_noise(draws=6)


def group_and_token_noise_are_the_oracle_s() -> None:
    # Statistics would need more draws than fit here; the oracle has the two purposes apart.
    logits = [torch.zeros(4, 2048)]
    ours = sample.guided_sample(logits, [1.0])
    assert ours.tokens.tolist() == reference.guided_sample(logits, [1.0]).tokens.tolist()


def exponentials_keep_every_bit() -> None:
    checks.check_exponentials_keep_every_bit(checks.kernel_exponentials)


def exponentials_have_their_tail() -> None:
    checks.check_exponentials_have_their_tail(checks.kernel_exponentials)


def exponentials_are_finite_and_positive() -> None:
    checks.check_exponentials_are_finite_and_positive(checks.kernel_exponentials)


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "off-by-one mask": (swap("prepare", mask_off_by_one, sample), checks.check_the_last_id_is_reached),
    "dropped last tile": (last_tile_dropped, checks.check_the_last_id_is_reached),
    "short last group read as full":
        (swap("prepare", short_group_read_as_full, sample), checks.check_nothing_beyond_the_vocabulary_exists),
    "reused seed": (swap("noise_kernel", seed_reused, draw), rows_and_positions_draw_their_own_noise),
    "ignored position": (swap("noise_kernel", position_ignored, draw), rows_and_positions_draw_their_own_noise),
    "32 bits of seed and position":
        (swap("noise_kernel", high_words_left_out, draw), rows_and_positions_draw_their_own_noise),
    "group noise reused as token noise":
        (swap("noise_kernel", purpose_left_out, draw), group_and_token_noise_are_the_oracle_s),
    "swapped weight":
        (swap("load_weights", weights_swapped, combine, draw), checks.check_weights_belong_to_their_models),
    "all-masked group giving NaN":
        (swap("add_block", empty_group_gives_nan, combine, rules), checks.check_an_excluded_group_is_passed_over),
    "24-bit uniforms": (swap("exponential_kernel", uniforms_of_24_bits, noise), exponentials_keep_every_bit),
    "24-bit uniforms, by their tail":
        (swap("exponential_kernel", uniforms_of_24_bits, noise), exponentials_have_their_tail),
    "u = 1": (swap("exponential_kernel", uniforms_that_reach_1, noise), exponentials_are_finite_and_positive),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
