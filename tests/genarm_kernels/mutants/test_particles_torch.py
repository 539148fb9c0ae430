"""Broken variants of resampling and following in torch."""

from collections.abc import Callable

import particle_cases as cases
import pytest
from mutations import Mutation, edited, proofs

from genarm_kernels import noise
from genarm_kernels.particles import cpu

pytestmark = pytest.mark.mutants

expectation = cases.check_expectation
survivors = cases.check_survivors_stay
reset = cases.check_weights_are_reset
who = cases.check_who_is_resampled
cannot = cases.check_what_cannot_be_resampled_stays
ends = cases.check_the_ends_of_uniforms
tails = cases.check_tails
beyond = cases.check_bounds_end_with_the_cache


def systems() -> None:
    cases.check_systems(60, 37)


def middles() -> None:
    cases.check_uniforms(noise.ANSWER)


MUTANTS: dict[str, tuple[Mutation, Callable[[], None]]] = {
    "the first index favoured":
        (edited(cpu._origins, "free = offspring == 0", "offspring[:, 0] += 1\n    free = offspring == 0"), expectation),
    "the first index favoured by uniforms of 0":
        (edited(cpu._origins, "> uniforms[:, None]", "> 0 * uniforms[:, None]"), expectation),
    "weights not normalised": (edited(cpu._origins, "* N / all_units.double()", "/ all_units.double()"), expectation),
    "a point at an end counted before it": (edited(cpu._origins, "> uniforms[:, None]", ">= uniforms[:, None]"), ends),
    "a point lost": (edited(cpu._origins, ".masked_fill_(ends == all_units, N)", "- 1"), ends),
    "sums of rounded weights": (edited(cpu._origins, "(weights * unit)", "(weights * 16)"), systems),
    "surplus one too many": (edited(cpu._origins, "(offspring - 1)", "(offspring + 0)"), survivors),
    "surplus to the slot behind": (edited(cpu._origins, "free.cumsum(1) - 1", "free.cumsum(1)"), survivors),
    "surplus from the one before": (edited(cpu._origins, "right=True", "right=False"), survivors),
    "survivors moved": (edited(cpu._origins, "found.where(free, own)", "found"), survivors),
    "weights not reset": (edited(cpu.resample, "log_weights.masked_fill(resampled, 0.0)", "log_weights"), reset),
    "weights always reset":
        (edited(cpu.resample, "masked_fill(resampled, 0.0)", "masked_fill(resampled | True, 0.0)"), reset),
    "a sum for the mean": (edited(cpu.resample, "(total / N).log_()", "total.log()"), reset),
    "a mean without its peak": (edited(cpu.resample, ".add_(peaks)", ""), reset),
    "a mean where none was taken off": (edited(cpu.resample, "means.masked_fill_(~due, 0.0)", "means"), reset),
    "resampled at the limit": (edited(cpu.resample, "size < N * below", "size <= N * below"), who),
    "one over the largest weight for the sample size":
        (edited(cpu.resample, "weights.square().cumsum", "weights.cumsum"), who),
    "not always from 1 on": (edited(cpu.resample, "(uneven | (below >= 1))", "uneven"), who),
    "systems that are not active resampled": (edited(cpu.resample, "due = active &", "due ="), who),
    "NaN not noticed": (edited(cpu.resample, "finite.all(1) & ", ""), cannot),
    "dead systems resampled": (edited(cpu.resample, "& (total > 0)", ""), cannot),
    "uniforms of 1 and NaN taken":
        (edited(cpu.resample, "(uniforms >= 0) & (uniforms < 1)", "uniforms.isnan() | True"), cannot),
    "rows that stay copied": (edited(cpu.follow_rows, "if origin == row:", "if origin != row:"), tails),
    "tails without an end": (edited(cpu.follow_rows, "min(length, T)", "T"), tails),
    "heads copied whole": (edited(cpu.follow_rows, "slice(max(start, 0),", "slice(0,"), tails),
    "keys alone": (edited(cpu.follow_rows, "cache[:, :, ", "cache[:, :1, ", 2), tails),
    "starts before the cache": (edited(cpu.follow_rows, "max(start, 0)", "start"), beyond),
    "uniforms that begin at 0": (edited(noise.uniforms, "double() + 0.5)", "double())"), middles),
    "uniforms of another purpose": (edited(noise.uniforms, "ids, purpose).double()", "ids, 1).double()"), middles),
}  # fmt: skip
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
