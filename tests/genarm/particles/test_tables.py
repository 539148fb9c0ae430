"""Particles on models that are known whole: what they draw, and their Ẑ, against the product over whole answers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from particle_checks import (
    EOS,
    LENGTH,
    PROMPT,
    SETTINGS,
    WORDS,
    T,
    V,
    assert_followers_go_on_with_the_text_they_took_over,
    assert_unbiased,
    divergences,
    instance,
    three_models,
)
from particle_tables import direct_divergence, divergence, enumerated
from transformers.modeling_outputs import CausalLMOutputWithPast

from genarm import GuidedDecoder
from genarm.evaluation.tabular import guided, joint
from genarm.evaluation.tabular_models import TabularLM, lm_from_tables
from genarm_kernels import reference

NOTHING = -1e4


def test_a_target_is_the_oracles_token_by_token_and_the_product_over_answers():
    models = three_models()
    for setting in SETTINGS:
        weights = [1.0, *setting.weights]
        found = enumerated(models, weights, *setting[1:])
        tables = [
            reference.guided_log_probs([rows.float() for rows in depth], weights, *setting[1:3], 1.0, *setting[3:])
            for depth in zip(*models, strict=True)
        ]
        assert torch.allclose(found.drawn.exp(), joint([table.double() for table in tables]).exp(), atol=1e-6)
        product = (
            sum(weight * joint(model) for weight, model in zip(weights, models, strict=True)) / setting.temperature
        )
        kept = found.weighted > -torch.inf
        assert torch.allclose(found.weighted[kept], product[kept]) and 0 < int(kept.sum()) < V**T
    plain = enumerated(models, [1.0, 0.5, 0.5])
    assert torch.allclose(plain.drawn, joint(guided(models, [1.0, 0.5, 0.5])))
    assert plain.lengths.tolist() == [T] * V**T


def test_both_estimates_of_a_divergence_are_that_of_independent_draws():
    """Importance sampling without a decoder: N draws from the base each, weighted by the reward model's product."""
    *_, target = instance(0)[0]
    generator = torch.Generator().manual_seed(1)
    draws = torch.multinomial(target.drawn.exp().expand(20_000, -1), 4, replacement=True, generator=generator)
    weights = (target.weighted - target.drawn)[draws]
    mass = torch.zeros(len(draws), WORDS**LENGTH, dtype=torch.float64).scatter_add_(1, draws, weights.softmax(1))
    evidence = weights.logsumexp(1) - torch.tensor(4.0).log()
    direct = direct_divergence(mass, target)
    assert direct > 0.02 and divergence(mass, evidence, target) == pytest.approx(direct, rel=0.1)
    few = [divergence(mass[start : start + 25], evidence[start : start + 25], target) for start in range(0, 5_000, 25)]
    assert sum(few) / len(few) == pytest.approx(direct, rel=0.1)


def test_few_particles_are_close_to_the_product_and_more_are_closer():
    """Of 64 particles, three instances: `make mutants` has all of them, with more systems."""
    found, more = divergences({4: 8, 16: 4}), divergences({64: 2}, instances=3)
    assert found[16] < found[1] / 10
    assert found[4] > 2 * found[16] and found[16] > 2 * more[64] > -0.005


@pytest.mark.parametrize("below", [0.0, 0.5, 1.0])
def test_the_evidence_is_that_of_the_product_in_the_mean(below: float):
    assert_unbiased({2: 40, 16: 10}, 0.2, SETTINGS[:2], resample_below=below, seed=1)


def test_followers_go_on_with_the_text_they_took_over():
    assert_followers_go_on_with_the_text_they_took_over(seed=1)


class WithDeadEnds(TabularLM):
    """Logits of less than NOTHING are none at all."""

    def forward(self, *arguments: Any, **options: Any) -> CausalLMOutputWithPast:
        out = super().forward(*arguments, **options)
        out.logits = out.logits.masked_fill(out.logits < NOTHING, -torch.inf)
        return out


def test_a_particle_with_nothing_left_to_draw_weighs_nothing():
    """And a system of which all are such has an estimate of 0, said as an error of its row."""
    base, reward_model, _ = three_models()
    base[2][0] = base[2][V] = 2 * NOTHING  # behind 0 and 0, and behind 1 and 0
    model = lm_from_tables(base)
    model.__class__ = WithDeadEnds
    decoder, systems = GuidedDecoder(model, [lm_from_tables(reward_model)], max_batch_size=4096), 60
    out = decoder.generate(
        [PROMPT] * systems, weights=[0.7], particles=3, resample_below=1.0, return_particles=True, max_new_tokens=T,
        eos_token_id=[EOS], seed=1,
    )  # fmt: skip
    assert out.particles is not None and out.log_evidence is not None and 0 < len(out.errors) < systems / 2
    for row, one in enumerate(out.particles):
        assert (one is None) == (row in out.errors) == (float(out.log_evidence[row]) == -torch.inf)
        if one is not None:
            dead = [reason == "error" for reason in one.finish_reasons]
            assert (one.log_weights == -torch.inf).tolist() == dead and out.finish_reasons[row] != "error"
    excluded = [table.masked_fill(table < NOTHING, -torch.inf) for table in base]
    target = enumerated([excluded, reward_model], [1.0, 0.7], eos=EOS)
    ratio = (out.log_evidence - target.log_z).exp()
    assert abs(float(ratio.mean()) - 1) < 4 * float(ratio.std()) / systems**0.5 < 0.8


def test_a_prompt_whose_every_answer_a_terminal_reward_refuses_has_none():
    base, reward_model, _ = three_models()
    decoder = GuidedDecoder(lm_from_tables(base), [lm_from_tables(reward_model)], tokenizer=Spelling())
    calls = []

    def refuse_the_first(texts: list[str], prompts: list[str]) -> list[float]:
        calls.append(texts)
        return [-torch.inf if prompt == "0" else 0.0 for prompt in prompts]

    out = decoder.generate(
        [[0], [1]], particles=3, num_return_sequences=2, max_new_tokens=T, terminal=refuse_the_first, eos_token_id=[],
        return_logprobs=True, return_particles=True,
    )  # fmt: skip
    assert calls and sorted(out.errors) == [0, 1] and out.finish_reasons == ["error", "error", "length", "length"]
    assert [len(row) for row in out.tokens] == [0, 0, T, T] and out.texts is not None and out.texts[:2] == ["", ""]
    assert out.log_evidence is not None and out.particles is not None and out.logprobs is not None
    assert out.log_evidence.isneginf().tolist() == [True, True, False, False] and out.particles[0] is None
    assert out.logprobs.isnan().tolist() == [[True] * T] * 2 + [[False] * T] * 2


class Spelling:
    """A tokenizer that writes ids as they are."""

    def decode(self, ids: list[int], **_: Any) -> str:
        return " ".join(map(str, ids))


def test_a_length_bonus_and_a_terminal_reward_multiply_the_product():
    options: dict[str, Any] = {"length_bonus": 0.4, "beta": 0.5, "terminal": "values"}
    assert_unbiased({8: 15}, 0.25, SETTINGS[:2], resample_below=1.0, seed=2, **options)
