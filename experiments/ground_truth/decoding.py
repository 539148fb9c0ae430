"""What decoding token by token costs: the exact distribution of every method on many problems, and its distance to π*.

The reward model is the one that the GenARM loss converges to, π_r ∝ exp(r/β_r), decoded with the weight β_r/β that
belongs to it; ARGS has the exact expected rewards and weight 1/β, Transfer-Q greedy roll-outs and weight 1/β.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from torch import Tensor

from genarm.evaluation import tabular_methods as methods
from genarm.evaluation.tabular import TabularProblem, kl, mean
from genarm.evaluation.tabular_problems import REWARDS, random_problem

BETAS_R = (0.25, 0.5, 1.0, 4.0, 64.0)
BETAS = (0.25, 0.5, 1.0, 2.0)
SHAPES = ((8, 2), (8, 3), (8, 4), (8, 5), (8, 6), (32, 3))


def problems(seeds: list[int]) -> Iterator[dict[str, Any]]:
    """What each is made from: every kind of reward, β and shape, under every seed."""
    for vocab_size, length in SHAPES:
        for reward in REWARDS:
            for beta in BETAS:
                for seed in seeds:
                    yield {
                        "vocab_size": vocab_size, "length": length, "beta": beta, "reward": reward, "seed": seed,
                    }  # fmt: skip


def measure(settings: dict[str, Any]) -> dict[str, Any]:
    """A problem's settings, and of each method its KL to π* in nats and its mean reward."""
    problem = random_problem(**settings)
    found = {
        name: [round(kl(decoded, problem.optimum), 6), round(mean(decoded, problem.rewards), 4)]
        for name, decoded in distributions(problem)
    }
    return {**settings, "methods": found}


def distributions(problem: TabularProblem) -> Iterator[tuple[str, Tensor]]:
    """Each method's name and joint distribution; that of a decode by the exact value is π* itself."""
    yield "base", problem.base_joint
    for beta_r in BETAS_R:
        reward_model = methods.bradley_terry_optimum(problem, beta_r)
        yield f"genarm {beta_r:g}", methods.genarm(problem, reward_model, beta_r / problem.beta)
    yield "args", methods.args(problem)
    yield "transfer_q", methods.transfer_q(problem)
    yield "best_of_16", methods.best_of(problem, 16)
    yield "value", methods.by_value(problem)
