"""The exact distribution of every method's answer on a problem that is known whole (tabular.py).

Each function gives the joint distribution [V^T] of what the method with these settings returns: no draws, and no error
but float64's. Citations are in the file of each method under genarm/methods/.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from .tabular import Tables, TabularProblem, backward, conditionals, guided, joint


def genarm(problem: TabularProblem, reward_model: Tables, weight: float) -> Tensor:
    """π(v | prefix) ∝ π_base(v | prefix) · π_r(v | prefix)^weight. A reward model that was trained with β_r says β_r ·
    log π_r = r + const, so the weight that belongs to the problem is β_r / β."""
    return joint(guided([problem.base, reward_model], [1.0, weight]))


def bradley_terry_optimum(problem: TabularProblem, beta_r: float) -> Tables:
    """The reward model that the GenARM loss converges to with ever more pairs, by tokens: π_r(y) ∝ exp(r(y) / β_r)."""
    return conditionals(problem.rewards / beta_r, problem.vocab_size)


def existing(problem: TabularProblem, weight: float) -> Tables:
    """A reward model with which GenARM is π* itself: π_r(v | prefix)^weight ∝ π*(v | prefix) / π_base(v | prefix)."""
    optimum = conditionals(problem.optimum, problem.vocab_size)
    return [((best - base) / weight).log_softmax(1) for best, base in zip(optimum, problem.base, strict=True)]


def best_of(problem: TabularProblem, n: int) -> Tensor:
    """The answer with the largest r among n draws from the base; equal ones are as likely as the base makes them.

    P(y) = π_base(y) / P(r = r(y)) · (P(r ≤ r(y))^n − P(r < r(y))^n).
    """
    levels, which = torch.unique(problem.rewards, return_inverse=True)
    mass = torch.zeros_like(levels).index_add_(0, which, problem.base_joint.exp())
    above = mass.flip(0).cumsum(0).flip(0)  # P(r ≥ level), summed from the top, where best-of-n looks
    tail = torch.cat([above[1:], above.new_zeros(1)])
    at_most, below = (torch.log1p(-part.clamp(0, 1)) * n for part in (tail, above))
    drawn = at_most + torch.log(-torch.expm1(below - at_most))
    return problem.base_joint + (drawn - mass.log())[which]


def by_candidates(
    tables: Tables, scores: list[Tensor], weight: float, top_k: int = 0, temperature: float = 1.0
) -> Tensor:
    """Token by token: of the top_k likeliest tokens v (0: all) one is drawn by softmax((log π(v) + weight · score(v)) /
    temperature), or taken as the argmax at temperature 0. scores: T tensors [V^(t+1)], one for each longer prefix."""
    found = []
    for table, score in zip(tables, scores, strict=True):
        total = table + weight * score.view_as(table)
        if 0 < top_k < table.shape[1]:
            least = table.topk(top_k, 1).values[:, -1:]
            total = total.masked_fill(table < least, -math.inf)
        if temperature == 0:
            chosen = total.argmax(1, keepdim=True)
            found.append(torch.full_like(total, -math.inf).scatter(1, chosen, 0.0))
        else:
            found.append((total / temperature).log_softmax(1))
    return joint(found)


def args(problem: TabularProblem, weight: float | None = None, top_k: int = 0, temperature: float = 1.0) -> Tensor:
    """ARGS, given the best trajectory RM there is for prefixes: score(v) = E_base[r | prefix, v]. weight: 1/β unless
    another is given, with which it would be π* if expectation and exp changed places."""
    return by_candidates(problem.base, problem.expected_rewards[1:], weight or 1 / problem.beta, top_k, temperature)


def by_value(problem: TabularProblem) -> Tensor:
    """π(v | prefix) ∝ π_base(v | prefix) · exp V*(prefix, v): what VAS and search decode with the exact value."""
    return by_candidates(problem.base, problem.values[1:], 1.0)


def transfer_q(
    problem: TabularProblem, weight: float | None = None, top_k: int = 0, temperature: float = 1.0
) -> Tensor:
    """Transfer-Q: score(v) = r of the answer that begins with (prefix, v) and goes on greedily under the base."""
    ends = backward(
        problem.base,
        problem.rewards,
        lambda scores, log_probs: scores.gather(1, log_probs.argmax(1, keepdim=True))[:, 0],
    )
    return by_candidates(problem.base, ends[1:], weight or 1 / problem.beta, top_k, temperature)
