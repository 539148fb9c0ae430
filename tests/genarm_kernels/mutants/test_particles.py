"""Broken variants of the kernels of resampling and following."""

from collections.abc import Callable

import particle_cases as cases
import pytest
import torch
from mutations import Mutation, edited, proofs

from genarm_kernels import noise
from genarm_kernels.particles import follow, resample

pytestmark = [pytest.mark.mutants, pytest.mark.interpreter]

expectation = cases.check_expectation
survivors = cases.check_survivors_stay
reset = cases.check_weights_are_reset
who = cases.check_who_is_resampled
cannot = cases.check_what_cannot_be_resampled_stays
ends = cases.check_the_ends_of_uniforms
tails = cases.check_tails
beyond = cases.check_bounds_end_with_the_cache


def systems() -> None:
    cases.check_systems(3, 37, 1.0)


def narrow_tails() -> None:
    cases.check_tails(torch.bfloat16, offset=1)


def long_tails() -> None:
    cases.check_follow([1, 1], [3, 0], [150, 150], 1, 1, 160, 128, torch.bfloat16)


def strange() -> None:
    cases.check_strange_origins_are_not_followed("cpu")


def middles() -> None:
    cases.check_uniforms(noise.ANSWER)


kernel, origins, points, rows = (
    resample.resample_kernel, resample.systematic_origins, resample.points_before, follow.follow_rows_kernel,
)  # fmt: skip
MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the first index favoured": (
        edited(origins, "free = offspring == 0", "offspring += (slots == 0).to(tl.int32)\n    free = offspring == 0"),
        expectation),
    "the first index favoured by uniforms of 0":
        (edited(points, "scaled - whole > u", "scaled - whole > u * 0"), expectation),
    "weights not normalised":
        (edited(points, "* N / all_units.to(tl.float64)", "/ all_units.to(tl.float64)"), expectation),
    "a point at an end counted before it": (edited(points, "scaled - whole > u", "scaled - whole >= u"), ends),
    "sums of rounded weights": (edited(origins, "weights * UNIT", "weights * 16.0"), systems),
    "surplus one too many": (edited(origins, "tl.maximum(offspring - 1, 0)", "offspring"), survivors),
    "surplus to the slot behind": (edited(origins, "tl.int32), 0) - 1", "tl.int32), 0)"), survivors),
    "a search that stops early": (edited(origins, "static_range(HALVINGS)", "static_range(HALVINGS - 1)"), systems),
    "survivors moved": (edited(origins, "tl.where(free, found, slots)", "found"), survivors),
    "weights not reset":
        (edited(kernel, "values = tl.zeros([BLOCK], tl.float64)", "pass"), reset),
    "weights always reset":
        (edited(kernel, "new_weights + system * N + slots, values,", "new_weights + system * N + slots, values * 0.0,"),
        reset),
    "a sum for the mean": (edited(kernel, "tl.log(total / N)", "tl.log(total)"), reset),
    "a mean without its peak": (edited(kernel, "peak + tl.log(", "tl.log("), reset),
    "a mean where none was taken off": (edited(kernel, "tl.where(due, mean, 0.0)", "mean"), reset),
    "resampled at the limit": (edited(kernel, "size < N * limit", "size <= N * limit"), who),
    "one over the largest weight for the sample size":
        (edited(kernel, "tl.sum(weights * weights, 0)", "tl.sum(weights, 0)"), who),
    "not always from 1 on": (edited(kernel, "| (limit >= 1.0)", ""), who),
    "systems that are not active resampled": (edited(kernel, "(tl.load(active + system) != 0) & ", ""), who),
    "one limit for all": (edited(kernel, "tl.load(below + system)", "tl.load(below)"), who),
    "one uniform for all": (edited(kernel, "tl.load(uniforms + system)", "tl.load(uniforms)"), systems),
    "NaN not noticed": (edited(kernel, "(tl.min(finite.to(tl.int32), 0) != 0) &", ""), cannot),
    "dead systems resampled": (edited(kernel, "& (total > 0.0)", ""), cannot),
    "uniforms of 1 and NaN taken": (edited(kernel, "(u >= 0.0) & (u < 1.0)", "(u == u) | (u != u)"), cannot),
    "rows that stay have no end": (edited(rows, "stop = tl.minimum(tl.load(lengths + row), T)", "stop = T"), tails),
    "heads copied whole": (edited(rows, "start = tl.maximum(tl.load(starts + row), 0)", "start = 0 * origin"), tails),
    "another row's tail": (edited(rows, "(plane + origin)", "(plane + origin + 1)"), tails),
    "keys alone": (edited(rows, "tl.program_id(1), tails,", "tl.program_id(1), tails // 2,"), tails),
    "only a program's first tail": (edited(rows, "tails, tl.num_programs(1)", "tails, tails"), tails),
    "every plane the first": (edited(rows, "(tail // H)", "(tail // H * 0)"), tails),
    "every head the first": (edited(rows, "tail % H", "tail * 0"), tails),
    "the last word lost": (edited(rows, "words < stop", "words < stop - 1"), narrow_tails),
    "only the first block": (edited(rows, "range(start, stop, BLOCK)", "range(start, stop, stop)"), long_tails),
    "bounds taken as they are":
        (edited(rows, "tl.minimum(tl.load(lengths + row), T)", "tl.load(lengths + row)"), beyond),
    "starts before the cache":
        (edited(rows, "tl.maximum(tl.load(starts + row), 0)", "tl.load(starts + row)"), beyond),
    "origins that do not exist followed": (edited(rows, "& (origin >= 0) & (origin < R)", ""), strange),
    "uniforms that begin at 0": (edited(noise.uniforms_kernel, "+ 0.5", ""), middles),
    "the first row's ids for all": (edited(noise.uniforms_kernel, "row * stride", "0 * stride"), middles),
    "uniforms of another purpose": (edited(noise.uniforms_kernel, "zero + PURPOSE", "zero + 1"), middles),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
