"""Broken variants of what decodes with particles, and the checks on tables and by the literal loop at full size."""

from __future__ import annotations

from dataclasses import replace
from functools import cache
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from mutations import Mutation, edited_method, proofs
from particle_checks import assert_followers_go_on_with_the_text_they_took_over, assert_unbiased, divergences
from particle_loop import system
from torch import Tensor

import genarm_kernels
from genarm import GuidedDecoder
from genarm.engine import draw, population
from genarm.engine.population import Population
from genarm.engine.run import Run
from genarm.engine.state import State
from genarm_kernels import GuidedSample, row_seeds
from genarm_kernels.sampling import ops
from genarm_kernels.sampling.arguments import Inputs

pytestmark = pytest.mark.mutants

SEED = 8
sample, resample = ops.sample, genarm_kernels.resample


@cache
def models() -> tuple[Any, Any]:
    return make_model("llama", seed=1), make_model("qwen3", seed=2, hidden=16, layers=1)


def particles_are_the_literal_loop() -> None:
    """Two prompts on the fused path, resampled at every token, some of whose particles end early."""
    base, reward = models()
    prompts, weights = random_prompts([5, 11], seed=1), [[1.0, 0.5], [1.0, 0.9]]
    options: dict[str, Any] = {
        "particles": 5,
        "max_new_tokens": 6,
        "resample_below": 1.0,
        "top_k": 40,
        "repetition_penalty": 1.1,
        "eos_token_id": list(range(9, 15)),
        "num_return_sequences": 6,
    }
    decoder = GuidedDecoder(base, {"r": reward}, max_batch_size=10)
    rows = torch.tensor(weights)[:, 1:]
    out = decoder.generate(prompts, weights=rows, seed=SEED, return_particles=True, **options)
    assert out.particles is not None and out.log_evidence is not None
    for row, (prompt, own, seed) in enumerate(zip(prompts, weights, row_seeds(SEED, 2).tolist(), strict=True)):
        expected, found = system([base, reward], [prompt] * 2, own, seed, options), out.particles[6 * row]
        assert expected.moved
        assert [one.tolist() for one in found.tokens] == [one.tokens for one in expected.particles]
        assert [one.tolist() for one in out.tokens[6 * row :][:6]] == [expected.answer(n).tokens for n in range(6)]
        weights_of = torch.tensor([one.log_weight for one in expected.particles], dtype=torch.float64)
        torch.testing.assert_close(found.log_weights, weights_of, atol=1e-3, rtol=0)
        assert float(out.log_evidence[6 * row]) == pytest.approx(expected.log_evidence, abs=1e-3)


def the_evidence_is_unbiased() -> None:
    for below in (0.0, 0.5, 1.0):
        assert_unbiased({2: 400, 16: 100}, 0.06, resample_below=below, seed=5)


def more_particles_are_closer_to_the_product() -> None:
    found = divergences({4: 100, 16: 40, 64: 16})
    assert found[16] < found[1] / 10
    assert found[1] > 4 * found[4] > 12 * found[16] > 24 * found[64]
    assert -0.002 < divergences({16: 120}, direct=True, resample_below=1.0)[16] < found[1] / 10


def followers_go_on_with_the_text_they_took_over() -> None:
    assert_followers_go_on_with_the_text_they_took_over(seed=3)


def filters_left_out(inputs: Inputs, return_logprobs: bool, return_normalizers: bool = False) -> GuidedSample:
    drawn = sample(inputs, return_logprobs, return_normalizers)
    off = dict.fromkeys(("top_k", "top_p", "min_p", "base_min_p", "base_top_p"))
    whole = sample(replace(inputs, **off), return_logprobs, return_normalizers)
    return drawn._replace(log_normalizers=whole.log_normalizers)


def surplus_goes_to_the_first(*arguments: Any) -> Any:
    found = resample(*arguments)
    own = torch.arange(found.origins.shape[1])
    origins = torch.where((found.origins == own) | (own == 0), own, 0)
    return found._replace(origins=origins)


def no_uniform(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
    return torch.full_like(ids.expand(len(seeds), -1), 2.0**-33, dtype=torch.float64)


def swap(target: object, name: str, value: object) -> Mutation:
    return lambda monkeypatch: monkeypatch.setattr(target, name, value)


FILTERS = swap(draw.ops, "sample", filters_left_out)
NOT_RESET = edited_method(Population, "resample", "self.log_weights.copy_(found.log_weights)", "pass")
NOT_COPIED = edited_method(Run, "resample", "session.follow(origins)", "pass")
FINISHED = edited_method(
    Population, "weigh", "torch.where(going_on, gains.double() + self.bonus, 0.0)", "gains.double() + self.bonus"
)
FIRST = swap(genarm_kernels, "resample", surplus_goes_to_the_first)
NO_UNIFORM = swap(population.noise, "uniforms", no_uniform)

MUTANTS = {
    "filters left out of the normaliser": (FILTERS, the_evidence_is_unbiased),
    "filters left out, by the loop": (FILTERS, particles_are_the_literal_loop),
    "weights not reset after resampling": (NOT_RESET, the_evidence_is_unbiased),
    "weights not reset, by the loop": (NOT_RESET, particles_are_the_literal_loop),
    "caches not copied": (NOT_COPIED, followers_go_on_with_the_text_they_took_over),
    "caches not copied, by the loop": (NOT_COPIED, particles_are_the_literal_loop),
    "finished particles weighted on": (FINISHED, the_evidence_is_unbiased),
    "finished particles weighted on, by the loop": (FINISHED, particles_are_the_literal_loop),
    "surplus goes to the first index": (FIRST, the_evidence_is_unbiased),
    "surplus goes to the first, by the loop": (FIRST, particles_are_the_literal_loop),
    "a uniform that is always the least": (NO_UNIFORM, the_evidence_is_unbiased),
    "weights left as they were": (
        edited_method(Population, "weigh", "self.log_weights += gained[: P * N].view(P, N)", "pass"),
        more_particles_are_closer_to_the_product,
    ),
    "evidence of a resampling lost": (
        edited_method(Population, "resample", "self.log_evidence += found.log_means", "pass"),
        the_evidence_is_unbiased,
    ),
    "tokens so far not copied": (
        edited_method(State, "_by_row", "self.generated, ", ""),
        particles_are_the_literal_loop,
    ),
    "ends not copied": (edited_method(State, "_by_row", "self.reasons, ", ""), particles_are_the_literal_loop),
    "ids seen not copied": (edited_method(State, "_by_row", "self.seen, ", ""), particles_are_the_literal_loop),
}
test_what_is_sound_passes, test_a_mutant_is_killed_by_its_check = proofs(MUTANTS)
