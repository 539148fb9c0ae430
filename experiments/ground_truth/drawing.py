"""Answers drawn by every method's own code (`genarm.methods`) from tables run as models, and what they cost.

The reward models are given whole: the AR-RM that the GenARM loss converges to with β_r = β, decoded with weight 1; the
exact expected rewards for ARGS; r itself for best-of-16, Transfer-Q and CARDS, which score whole answers or prefixes
by the same table. Where the distribution is known exactly the divergence is of that, else of the draws themselves, less
(answers that were drawn − 1) / (2 · draws), the bias of such an estimate to first order (Miller and Madow 1955).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

import genarm.methods
from experiments.ground_truth.existence import PROMPT, make_decoder
from genarm.evaluation import tabular_methods as exact
from genarm.evaluation.tabular import TabularProblem, kl, mean, numbers
from genarm.evaluation.tabular_models import scorer_from_values
from genarm.evaluation.tabular_problems import random_problem

VOCABULARY, LENGTH, BETA = 4, 4, 0.5
DRAWS = 1000


@dataclass(frozen=True, slots=True)
class Case:
    """A method with its settings; its joint distribution [V^T] where that is known exactly, and how many draws say what
    is not known: one where all are the same."""

    label: str
    method: str
    settings: dict[str, Any]
    known: Tensor | None = None
    draws: int = DRAWS


def measure(seed: int) -> list[dict[str, Any]]:
    """A row for each method: its divergence from π*, mean rewards, and the tokens that each model read per answer."""
    problem = random_problem(VOCABULARY, LENGTH, BETA, seed=seed)
    return [{"seed": seed, "method": case.label, **_figures(problem, case, seed)} for case in cases(problem)]


def cases(problem: TabularProblem) -> Iterator[Case]:
    """Every method that there is."""
    V, weight = problem.vocab_size, 1 / problem.beta
    rewards = scorer_from_values(V, problem.expected_rewards)
    value = scorer_from_values(V, problem.values)
    arm = exact.bradley_terry_optimum(problem, problem.beta)
    every: dict[str, Any] = {"candidates": V, "weight": weight, "choice": "stochastic", "tau": 1.0}
    yield Case("base", "base", {}, problem.base_joint)
    yield Case("GenARM", "genarm", {}, exact.genarm(problem, arm, 1.0))
    yield Case("best-of-16", "best_of_n", {"trajectory_rm": rewards}, exact.best_of(problem, 16))
    yield Case("ARGS", "args", {"trajectory_rm": rewards, **every}, exact.args(problem))
    rolled = {"policy": "base", "trajectory_rm": rewards, **every}
    yield Case("Transfer-Q", "transfer_q", rolled, exact.transfer_q(problem))
    yield Case(
        "VAS, exact value", "vas", {"value_head": value, "candidates": V, "strength": 1.0}, exact.by_value(problem)
    )
    yield Case("CARDS", "cards", {"trajectory_rm": rewards, **_cards(problem)})
    drawn = {"kind": "sample", "value": value, "expansions": V}
    yield Case("search, sample, exact value", "search", drawn, exact.by_value(problem))
    yield Case("search, beam of 4, AR-RM", "search", {"kind": "beam", "expansions": V}, draws=1)
    yield Case("search, PUCT, AR-RM", "search", {"kind": "puct", "expansions": V}, draws=1)


def _cards(problem: TabularProblem) -> dict[str, Any]:
    """CARDS' settings for a problem: a good answer scores the mean reward of π*, β is the temperature, and segments end
    before a token whose entropy is large for four ids."""
    target = mean(problem.optimum, problem.rewards)
    segments = {"shortest": 1, "longest": problem.length, "horizon": problem.length, "entropy": 1.0}
    return {"target": target, "tau": problem.beta, "temperature": 1.0, "top_k": 0, **segments}


def draw(problem: TabularProblem, case: Case, draws: int, seed: int) -> Any:
    """The output of so many draws, a GenerationOutput."""
    decoder = make_decoder(problem, exact.bradley_terry_optimum(problem, problem.beta))
    settings = dict(case.settings)
    if settings.get("policy") == "base":
        settings["policy"] = decoder.base_model
    plain: dict[str, Any] = {"max_new_tokens": problem.length, "eos_token_id": [], "seed": seed}
    if case.method == "base":
        return decoder.only().generate(PROMPT, num_return_sequences=draws, **plain)
    return genarm.methods[case.method].generate(decoder, PROMPT, num_return_sequences=draws, **settings, **plain)


def _figures(problem: TabularProblem, case: Case, seed: int) -> dict[str, Any]:
    draws = min(case.draws, DRAWS)
    out = draw(problem, case, draws, seed)
    found = numbers(torch.stack(out.tokens), problem.vocab_size)
    shares = torch.bincount(found, minlength=len(problem.rewards)).double() / draws
    bias = (int((shares > 0).sum()) - 1) / (2 * draws)
    known, rewards = case.known, problem.rewards[found]
    divergence = kl(shares.log(), problem.optimum) - bias if known is None else kl(known, problem.optimum)
    return {
        "exact": known is not None,
        "kl": round(divergence, 6),
        "reward": None if known is None else round(mean(known, problem.rewards), 4),
        "drawn_reward": round(float(rewards.mean()), 4),
        "standard_error": round(float(rewards.std(correction=0)) / draws**0.5, 4),
        "forwarded": {model: round(count / draws, 2) for model, count in out.stats.forwarded.items()},
    }
