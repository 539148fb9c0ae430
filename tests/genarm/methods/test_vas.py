"""VAS against its definition, written out: one row, one candidate, one whole text at a time."""

from __future__ import annotations

from itertools import product
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from method_cases import STEPS, assert_same_rows, make_scorer, next_logits, score_of

import genarm_kernels
from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError
from genarm.methods.vas import value_log_probs


def literal(base: Any, head: Any, prompt: list[int], seed: int, k: int, beta: float, temperature: float) -> list[int]:
    tokens: list[int] = []
    while len(tokens) < STEPS and 2 not in tokens:
        text = [*prompt, *tokens]
        logits = next_logits(base, text)
        offered = sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))[:k]
        values = [score_of(head, [*text, one]) for one in offered]
        mean = sum(values) / len(values)
        scores = [float(logits[one]) + beta * (value - mean) for one, value in zip(offered, values, strict=True)]
        sample = genarm_kernels.reference.guided_sample(
            [torch.tensor([scores])],
            torch.ones(1),
            temperature=temperature,
            seed=torch.tensor([seed]),
            position=torch.tensor([len(text)]),
        )
        tokens.append(offered[int(sample.tokens)])
    return tokens


@pytest.mark.parametrize(("family", "temperature"), [("llama", 1.0), ("gpt2", 0.0)])
def test_vas_is_its_definition(family: str, temperature: float) -> None:
    base, head = make_model(family), make_scorer(family, seed=7)
    prompts = random_prompts([5, 9, 3])
    out = methods["vas"].generate(
        GuidedDecoder(base, max_batch_size=2), prompts, value_head=head, candidates=4, strength=0.5,
        temperature=temperature, max_new_tokens=STEPS, seed=3,
    )  # fmt: skip
    seeds = genarm_kernels.row_seeds(3, 3).tolist()
    expected = [
        literal(base, head, prompt.tolist(), seed, 4, 0.5, temperature)
        for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert_same_rows(out, expected)
    for row, prompt in enumerate(prompts):
        assert float(out.scores[row]) == pytest.approx(score_of(head, [*prompt.tolist(), *expected[row]]), abs=1e-3)
    assert out.stats.forwarded["value_head"] - out.stats.forwarded["base"] == sum(
        4 * len(row) - (len(row) - 1) for row in expected
    )


def test_rows_have_temperatures_of_their_own() -> None:
    base, head = make_model("llama"), make_scorer("llama", seed=7)
    prompt, settings = (
        random_prompts([5])[0],
        {"value_head": head, "candidates": 4, "strength": 0.5, "eos_token_id": []},
    )
    mixed = methods["vas"].generate(
        GuidedDecoder(base), [prompt, prompt], temperature=[1.0, 0.0], seed=[4, 4], max_new_tokens=STEPS, **settings
    )
    assert_same_rows(mixed, [literal(base, head, prompt.tolist(), 4, 4, 0.5, one) for one in (1.0, 0.0)])


def test_the_soft_value_makes_vas_the_optimal_policy() -> None:
    """V*(y) = (1/β) log E_base[exp(β r) | y] over all tokens, multiplied along an answer, is π* ∝ π_base · exp(β r)."""
    V, T, beta = 4, 3, 1.7
    generator = torch.Generator().manual_seed(0)
    base = {
        prefix: torch.randn(V, generator=generator, dtype=torch.float64).log_softmax(0)
        for length in range(T)
        for prefix in product(range(V), repeat=length)
    }
    answers = list(product(range(V), repeat=T))
    rewards = torch.randn(len(answers), generator=generator, dtype=torch.float64)
    value = dict(zip(answers, rewards, strict=True))
    for length in reversed(range(T)):
        for prefix in product(range(V), repeat=length):
            later = torch.stack([value[(*prefix, token)] for token in range(V)])
            value[prefix] = torch.logsumexp(base[prefix] + beta * later, 0) / beta
    found = torch.stack([
        sum(
            value_log_probs(base[own[:t]], torch.stack([value[(*own[:t], token)] for token in range(V)]), beta)[own[t]]
            for t in range(T)
        )
        for own in answers
    ])  # fmt: skip
    plain = torch.stack([sum(base[own[:t]][own[t]] for t in range(T)) for own in answers])
    optimal = (plain + beta * rewards).log_softmax(0)
    assert float((found.exp() * (found - optimal)).sum()) == pytest.approx(0.0, abs=1e-12)


def test_the_mean_of_the_values_changes_nothing() -> None:
    log_probs, values = torch.randn(5, 7).double(), torch.randn(5, 7).double()
    expected = (log_probs + 3.0 * values).log_softmax(-1)
    torch.testing.assert_close(value_log_probs(log_probs, values, 3.0), expected)


def test_no_candidates_are_refused() -> None:
    with pytest.raises(InvalidArgumentError, match="candidates is 0"):
        methods["vas"].generate(
            GuidedDecoder(make_model("llama")), [[5]], value_head=make_scorer("llama"), candidates=0
        )
