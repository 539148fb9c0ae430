"""A tabular AR-RM trained by the GenARM loss on Bradley-Terry pairs, and DPO on the same pairs.

Both answers of a pair are drawn from the base, and y is preferred to y' with probability σ(r(y) − r(y')). The model has
a logit for every token behind every prefix, so it can be any distribution. Training is full-batch L-BFGS from equally
likely tokens, on distinct pairs with their counts: what is left of an error is what the pairs do not say.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from genarm.evaluation import tabular_methods as methods
from genarm.evaluation.tabular import Tables, TabularProblem, joint, kl, mean
from genarm.evaluation.tabular_problems import BaseKind, random_problem
from genarm.training.arm import arm_loss

ITERATIONS = 300
VOCABULARY, LENGTH = 4, 3  # 64 answers, 63 numbers to learn
NUMBERS = (1_000, 10_000, 100_000, 1_000_000, None)  # of pairs; None: the expected counts of all pairs
# base, β_r of the training; decoded with several β each
RUNS: tuple[tuple[BaseKind, float, tuple[float, ...]], ...] = (
    ("random", 0.25, (0.5, 1.0, 2.0)),
    ("random", 1.0, (0.5, 1.0, 2.0)),
    ("random", 4.0, (0.5, 1.0, 2.0)),
    ("uniform", 1.0, (1.0,)),
)


@dataclass(frozen=True, slots=True)
class CountedPairs:
    """Distinct pairs of answers: chosen and rejected [P] int64, their numbers; counts [P] float64."""

    chosen: Tensor
    rejected: Tensor
    counts: Tensor


def draw_pairs(problem: TabularProblem, pairs: int, seed: int) -> CountedPairs:
    """So many pairs, drawn. Those of an answer with itself say nothing and are drawn again."""
    generator = torch.Generator().manual_seed(seed)
    own = problem.base_joint.exp()
    both = _draw(own, 2 * pairs, generator).view(2, pairs)
    while bool((same := both[0] == both[1]).any()):
        both[1, same] = _draw(own, int(same.sum()), generator)
    difference = problem.rewards[both[0]] - problem.rewards[both[1]]
    first = torch.rand(pairs, generator=generator, dtype=torch.float64) < difference.sigmoid()
    chosen, rejected = torch.where(first, both[0], both[1]), torch.where(first, both[1], both[0])
    distinct, counts = torch.unique(chosen * len(own) + rejected, return_counts=True)
    return CountedPairs(distinct // len(own), distinct % len(own), counts.double())


def _draw(probabilities: Tensor, count: int, generator: torch.Generator) -> Tensor:
    places = torch.rand(count, generator=generator, dtype=torch.float64)
    return torch.searchsorted(probabilities.cumsum(0), places).clamp(max=len(probabilities) - 1)


def expected_pairs(problem: TabularProblem) -> CountedPairs:
    """All pairs, each counted as often as it is drawn in the mean: what ever more pairs come to."""
    own, count = problem.base_joint.exp(), len(problem.rewards)
    chosen, rejected = (side.flatten() for side in torch.meshgrid(*[torch.arange(count)] * 2, indexing="ij"))
    preferred = (problem.rewards[chosen] - problem.rewards[rejected]).sigmoid()
    counts = own[chosen] * own[rejected] * preferred * (chosen != rejected)
    return CountedPairs(chosen, rejected, counts)


def train(problem: TabularProblem, pairs: CountedPairs, beta: float, reference: Tensor | None = None) -> Tables:
    """The tables that the GenARM loss with β_r = beta comes to. With ``reference`` [V^T], the log-probabilities of a
    policy to compare with, it is the DPO loss."""
    logits = [torch.zeros_like(table, requires_grad=True) for table in problem.base]
    optimiser = torch.optim.LBFGS(
        logits, max_iter=ITERATIONS, history_size=20, tolerance_grad=1e-10, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimiser.zero_grad()
        scores = joint([table.log_softmax(1) for table in logits])
        if reference is not None:
            scores = scores - reference
        loss = arm_loss(scores[pairs.chosen], scores[pairs.rejected], beta, pairs.counts)
        loss.backward()
        return loss

    optimiser.step(closure)
    return [table.detach().log_softmax(1) for table in logits]


def measure(seed: int) -> Iterator[dict[str, Any]]:
    """Under one seed, every run with every number of pairs, decoded with every β; DPO once per β."""
    for base, beta_r, betas in RUNS:
        for number in NUMBERS:
            pairs, tables = None, None
            for beta in betas:
                problem = random_problem(VOCABULARY, LENGTH, beta, base=base, seed=seed)
                if pairs is None or tables is None:
                    pairs = expected_pairs(problem) if number is None else draw_pairs(problem, number, seed)
                    tables = train(problem, pairs, beta_r)
                facts = {"seed": seed, "base": base, "beta": beta, "pairs": number}
                yield {**facts, "method": "genarm", "beta_r": beta_r} | _trained(problem, tables, beta_r)
                if beta_r == 1.0 and base == "random":
                    yield {**facts, "method": "dpo"} | _against(
                        problem, joint(train(problem, pairs, beta, problem.base_joint))
                    )


def _trained(problem: TabularProblem, tables: Tables, beta_r: float) -> dict[str, float]:
    weight = beta_r / problem.beta
    exact = methods.genarm(problem, methods.bradley_terry_optimum(problem, beta_r), weight)
    decoded = methods.genarm(problem, tables, weight)
    found = {"kl_to_exact": kl(decoded, exact), "exact_kl": kl(exact, problem.optimum)}
    return {name: round(value, 8) for name, value in found.items()} | _against(problem, decoded)


def _against(problem: TabularProblem, decoded: Tensor) -> dict[str, float]:
    return {"kl": round(kl(decoded, problem.optimum), 8), "reward": round(mean(decoded, problem.rewards), 4)}
