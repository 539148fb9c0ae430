"""Random problems that are known whole (tabular.py): bases and rewards of several kinds, each from a seed.

Whatever its kind, a reward has a standard deviation of 1 over all answers, so that one β means the same for all of
them. "random": every answer's own, drawn from N(0, 1). "additive": a sum over places of what the token there is worth.
"adjacent": a sum over pairs of neighbours. "rare": one answer in 32 is good, and all others are alike.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

import torch
from torch import Tensor

from ..errors import InvalidArgumentError
from .tabular import Tables, TabularProblem, answers

BaseKind = Literal["random", "uniform"]
GOOD = 32  # answers among which one of a rare reward is good


def random_problem(
    vocab_size: int, length: int, beta: float, reward: str = "random", base: BaseKind = "random", seed: int = 0
) -> TabularProblem:
    """A problem of V = vocab_size and T = length. base "random": logits of every prefix from N(0, 1).

    Raises InvalidArgumentError for a kind of reward that there is not.
    """
    if reward not in REWARDS:
        raise InvalidArgumentError(f"reward is {reward!r}: expected one of {', '.join(REWARDS)}")
    generator = torch.Generator().manual_seed(seed)
    scale = 1.0 if base == "random" else 0.0
    tables: Tables = [(scale * _normal(generator, vocab_size**t, vocab_size)).log_softmax(1) for t in range(length)]
    rewards = REWARDS[reward](vocab_size, length, generator)
    return TabularProblem(tables, (rewards - rewards.mean()) / rewards.std(correction=0), beta)


def _normal(generator: torch.Generator, *shape: int) -> Tensor:
    return torch.randn(*shape, generator=generator, dtype=torch.float64)


def _random(V: int, T: int, generator: torch.Generator) -> Tensor:
    return _normal(generator, V**T)


def _additive(V: int, T: int, generator: torch.Generator) -> Tensor:
    return _normal(generator, T, V)[torch.arange(T), answers(V, T)].sum(1)


def _adjacent(V: int, T: int, generator: torch.Generator) -> Tensor:
    found = answers(V, T)
    if T == 1:
        return _normal(generator, V)
    return _normal(generator, T - 1, V, V)[torch.arange(T - 1), found[:, :-1], found[:, 1:]].sum(1)


def _rare(V: int, T: int, generator: torch.Generator) -> Tensor:
    good = torch.randperm(V**T, generator=generator)[: max(1, V**T // GOOD)]
    return torch.zeros(V**T, dtype=torch.float64).index_fill_(0, good, 1.0)


REWARDS: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "random": _random,
    "additive": _additive,
    "adjacent": _adjacent,
    "rare": _rare,
}
