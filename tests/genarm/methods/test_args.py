"""ARGS against its definition, written out: one row, one candidate, one whole text at a time."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from method_cases import STEPS, assert_same_rows, make_scorer, next_logits, score_of

import genarm_kernels
from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError


def literal(base: Any, scorer: Any, prompt: list[int], seed: int, k: int, weight: float, tau: float) -> list[int]:
    """The tokens of one row; tau 0 is greedy."""
    tokens: list[int] = []
    while len(tokens) < STEPS and 2 not in tokens:
        text = [*prompt, *tokens]
        logits = next_logits(base, text)
        offered = sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))[:k]
        scores = torch.tensor([float(logits[one]) + weight * score_of(scorer, [*text, one]) for one in offered])
        sample = genarm_kernels.reference.guided_sample(
            [scores[None]],
            torch.ones(1),
            temperature=tau,
            seed=torch.tensor([seed]),
            position=torch.tensor([len(text)]),
        )
        tokens.append(offered[int(sample.tokens)])
    return tokens


@pytest.mark.parametrize("choice", ["greedy", "stochastic"])
@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_args_is_its_definition(family: str, choice: str) -> None:
    base, scorer = make_model(family), make_scorer(family, seed=7)
    prompts = random_prompts([5, 9, 3])
    decoder = GuidedDecoder(base, max_batch_size=2)
    out = methods.get("args").generate(
        decoder, prompts, trajectory_rm=scorer, candidates=4, weight=2.0, choice=choice, max_new_tokens=STEPS, seed=3
    )
    seeds = genarm_kernels.row_seeds(3, 3).tolist()
    tau = 0.0 if choice == "greedy" else 0.7
    expected = [
        literal(base, scorer, prompt.tolist(), seed, 4, 2.0, tau) for prompt, seed in zip(prompts, seeds, strict=True)
    ]
    assert_same_rows(out, expected)
    for row, prompt in enumerate(prompts):
        assert float(out.scores[row]) == pytest.approx(score_of(scorer, [*prompt.tolist(), *expected[row]]), abs=1e-3)


def test_args_counts_what_it_reads() -> None:
    decoder = GuidedDecoder(make_model("llama"), max_batch_size=4)
    prompts = random_prompts([6, 6])
    out = methods["args"].generate(
        decoder, [prompts[0], prompts[0], prompts[1]], trajectory_rm=make_scorer("llama", seed=7), candidates=3,
        max_new_tokens=4, eos_token_id=[],
    )  # fmt: skip
    assert out.stats.forwarded == {"base": 2 * 6 + 3 * 3, "trajectory_rm": 2 * 6 + 3 * 3 * 4}


def test_what_a_method_would_not_heed_is_refused() -> None:
    decoder = GuidedDecoder(make_model("llama"))
    with pytest.raises(InvalidArgumentError, match="args does not take 'top_p'"):
        methods["args"].generate(decoder, [[5, 6]], trajectory_rm=make_scorer("llama"), top_p=0.5)
    with pytest.raises(InvalidArgumentError, match="no decoding method 'agrs': did you mean 'args'"):
        methods.get("agrs")
