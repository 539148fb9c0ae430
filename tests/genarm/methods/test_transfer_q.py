"""Transfer Q* against its definition, written out: one row, one candidate, one whole text at a time."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from method_cases import STEPS, assert_same_rows, make_scorer, next_logits, score_of

import genarm_kernels
from genarm import GuidedDecoder, methods
from genarm.errors import InvalidArgumentError

K, LOOKAHEAD, WEIGHT, EOS = 3, 3, 2.0, [2, 11, 30, 31, 45, 60]


def ranked(logits: torch.Tensor) -> list[int]:
    return sorted(range(len(logits)), key=lambda token: (-float(logits[token]), token))


def literal(
    policy: Any, rms: list[Any], prompt: list[int], seed: int, tau: float, count: Counter[str]
) -> tuple[list[int], float]:
    """The tokens of one row and the reward of it; tau 0 is greedy. ``count`` gets the tokens that are to be read."""
    tokens: list[int] = []
    count.update(policy=len(prompt), rm=len(prompt))
    while len(tokens) < STEPS and not set(tokens) & set(EOS):
        text = [*prompt, *tokens]
        logits = next_logits(policy, text)
        offered, scores, rewards = ranked(logits)[:K], [], []
        for one in offered:
            rolled = [one]
            while len(rolled) <= LOOKAHEAD and rolled[-1] not in EOS and len(tokens) + len(rolled) < STEPS:
                rolled.append(ranked(next_logits(policy, [*text, *rolled]))[0])
            count.update(policy=len(rolled) - 1, rm=len(rolled))
            r = [score_of(rm, [*text, *rolled]) for rm in rms]
            value = r[0] if len(r) == 1 else math.exp(0.5 * (r[0] - r[1])) * r[0]
            scores.append(float(logits[one]) + WEIGHT * value)
            rewards.append(r[0])
        sample = genarm_kernels.reference.guided_sample(
            [torch.tensor([scores])],
            torch.ones(1),
            temperature=tau,
            seed=torch.tensor([seed]),
            position=torch.tensor([len(text)]),
        )
        tokens.append(offered[int(sample.tokens)])
        reward = rewards[int(sample.tokens)]
    return tokens, reward


@pytest.mark.parametrize(
    ("family", "kind", "choice"),
    [("llama", "direct", "greedy"), ("gpt2", "direct", "stochastic"), ("llama", "indirect", "stochastic")],
)
def test_transfer_q_is_its_definition(family: str, kind: str, choice: str) -> None:
    policy = make_model(family, seed=3)
    rms = [make_scorer(family, seed=7, scale=0.3), make_scorer(family, seed=8, scale=0.3)][: 1 + (kind == "indirect")]
    prompts = [prompt.tolist() for prompt in random_prompts([5, 9, 3])]
    decoder = GuidedDecoder(make_model(family), max_batch_size=2)
    out = methods["transfer_q"].generate(
        decoder, prompts, policy=policy, trajectory_rm=rms[0], baseline_rm=rms[1] if len(rms) > 1 else None,
        candidates=K, lookahead=LOOKAHEAD, weight=WEIGHT, choice=choice, max_new_tokens=STEPS, seed=3, eos_token_id=EOS,
    )  # fmt: skip
    tau, count = 0.0 if choice == "greedy" else 0.7, Counter[str]()
    seeds = genarm_kernels.row_seeds(3, 3).tolist()
    expected = [literal(policy, rms, prompt, seed, tau, count) for prompt, seed in zip(prompts, seeds, strict=True)]
    assert_same_rows(out, [tokens for tokens, _ in expected])
    assert out.scores.tolist() == pytest.approx([reward for _, reward in expected], abs=1e-3)
    names = ["trajectory_rm", "baseline_rm"][: len(rms)]
    assert out.stats.forwarded == {"policy": count["policy"], **dict.fromkeys(names, count["rm"])}


def test_roll_outs_end_with_the_answer() -> None:
    decoder = GuidedDecoder(make_model("llama"))
    options: dict[str, Any] = {"policy": make_model("llama", seed=3), "trajectory_rm": make_scorer("llama", seed=7)}
    out = methods["transfer_q"].generate(decoder, [[5, 6]], candidates=4, max_new_tokens=2, eos_token_id=[], **options)
    # Two steps of four candidates: at the first each is followed by one token more, at the second by none.
    assert out.stats.forwarded == {"policy": 2 + 4, "trajectory_rm": 2 + 4 * 2 + 4}
    out = methods["transfer_q"].generate(
        decoder, [[5, 6]], candidates=4, max_new_tokens=9, eos_token_id=list(range(97)), **options
    )
    assert out.stats.forwarded == {"policy": 2, "trajectory_rm": 2 + 4} and out.finish_reasons == ["eos"]


def test_a_transfer_that_looks_nowhere_is_refused() -> None:
    decoder = GuidedDecoder(make_model("llama"))
    for wrong in ({"lookahead": 0}, {"candidates": 0}, {"tau": 0.0}, {"choice": "beam"}):
        with pytest.raises(InvalidArgumentError, match="pass at least one candidate"):
            methods["transfer_q"].generate(
                decoder, [[5]], policy=make_model("llama"), trajectory_rm=make_scorer("llama"), **wrong
            )
