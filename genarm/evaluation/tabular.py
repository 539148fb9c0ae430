"""Problems small enough to be known whole: every answer of T tokens over V ids is listed, all of it in float64.

    π*(y) ∝ π_base(y) · exp(r(y) / β)        V*(prefix) = log E_base[exp(r(y) / β) | prefix]

π* maximises E[r] − β · KL(· ‖ π_base), and π*(y_t | y_<t) ∝ π_base(y_t | y_<t) · exp V*(y_≤t). Answers have one
length and no end-of-sequence token. They are numbered as V-ary numbers, the first token being the largest digit, and so
are prefixes of any length t.

A joint distribution is a tensor [V^T] of log-probabilities. ``Tables`` are the same by tokens: a list of T tensors
[V^t, V], whose rows are log π(· | prefix). Source: GenARM (ICLR 2025), section 3.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor

from ..errors import InvalidArgumentError

MOST_ANSWERS = 1 << 24  # 128 MiB for each number that is known of every answer

Tables = list[Tensor]


@dataclass(frozen=True)
class TabularProblem:
    """A base, the reward of every answer, and the temperature β of the KL penalty.

    base: tables of log π_base, float64; rewards: [V^T] float64, r(y) of every answer; beta: β > 0.
    Raises InvalidArgumentError for shapes that do not belong together, or more than 2^24 answers.
    """

    base: Tables
    rewards: Tensor
    beta: float

    def __post_init__(self) -> None:
        if not self.beta > 0:
            raise InvalidArgumentError(f"beta is {self.beta}: π* ∝ π_base · exp(r/β) needs a β above 0")
        V, T = self.vocab_size, self.length
        shapes = [tuple(table.shape) for table in self.base]
        if shapes != [(V**t, V) for t in range(T)] or self.rewards.shape != (V**T,) or V**T > MOST_ANSWERS:
            raise InvalidArgumentError(
                f"tables {shapes} and {list(self.rewards.shape)} rewards: expected T tables [V^t, V], V^T rewards and "
                f"at most {MOST_ANSWERS:,} answers"
            )

    @property
    def vocab_size(self) -> int:
        """V."""
        return self.base[0].shape[1]

    @property
    def length(self) -> int:
        """T, tokens of an answer."""
        return len(self.base)

    @cached_property
    def base_joint(self) -> Tensor:
        """[V^T], log π_base(y)."""
        return joint(self.base)

    @cached_property
    def optimum(self) -> Tensor:
        """[V^T], log π*(y)."""
        return (self.base_joint + self.rewards / self.beta).log_softmax(0)

    @cached_property
    def values(self) -> list[Tensor]:
        """T + 1 tensors [V^t]: V* of every prefix; of the empty one it is log Z, of a whole answer r/β."""
        return backward(
            self.base, self.rewards / self.beta, lambda scores, log_probs: (scores + log_probs).logsumexp(1)
        )

    @cached_property
    def expected_rewards(self) -> list[Tensor]:
        """T + 1 tensors [V^t]: E_base[r | prefix], what a trajectory RM could say of a prefix at best."""
        return backward(self.base, self.rewards, lambda scores, log_probs: (scores * log_probs.exp()).sum(1))


def backward(tables: Tables, leaves: Tensor, step: Callable[[Tensor, Tensor], Tensor]) -> list[Tensor]:
    """Figures [V^t] of all prefixes, t = 0 … T, from those of whole answers [V^T]: a prefix has ``step`` of its tokens'
    figures [V^t, V] and log-probabilities [V^t, V]."""
    found = [leaves]
    for table in reversed(tables):
        found.append(step(found[-1].view_as(table), table))
    return found[::-1]


def joint(tables: Tables) -> Tensor:
    """[V^T], the log-probability of every answer."""
    total = torch.zeros(1, dtype=torch.float64, device=tables[0].device)
    for table in tables:
        total = (total[:, None] + table).flatten()
    return total


def conditionals(log_joint: Tensor, vocab_size: int) -> Tables:
    """The tables of a joint distribution [V^T]; it need not be normalised. Where a prefix has no mass all of its tokens
    are equally likely."""
    mass, found = log_joint, []
    while len(mass) > 1:
        rows = mass.view(-1, vocab_size)
        mass = rows.logsumexp(1)
        found.append(torch.where(mass[:, None] == -math.inf, -math.log(vocab_size), rows - mass[:, None]))
    return found[::-1]


def guided(models: Sequence[Tables], weights: Sequence[float]) -> Tables:
    """The guided distribution, token by token: π(v | prefix) ∝ exp Σ_m w_m log p_m(v | prefix)."""
    return [
        torch.stack([weight * table for weight, table in zip(weights, depth, strict=True)]).sum(0).log_softmax(1)
        for depth in zip(*models, strict=True)
    ]


def kl(log_p: Tensor, log_q: Tensor) -> float:
    """KL(p ‖ q) in nats of two normalised joint distributions [V^T].

    As Σ p · (q/p − 1 − log(q/p)), which is the same for normalised ones and has no term below 0, so that a divergence
    of 1e-15 is not lost among terms that cancel.
    """
    ratio = (log_q - log_p)[log_p > -math.inf]
    p = log_p[log_p > -math.inf].exp()
    missing = 1 - float(log_q[log_p > -math.inf].exp().sum())  # of q, where p has nothing
    return float((p * (ratio.expm1() - ratio)).sum()) + max(0.0, missing) * float(len(p) < len(log_p))


def mean(log_p: Tensor, values: Tensor) -> float:
    """E_p[values], both [V^T]."""
    return float((log_p.exp() * values).sum())


def answers(vocab_size: int, length: int) -> Tensor:
    """[V^T, T] int64, the tokens of every answer, in their order."""
    digits = vocab_size ** torch.arange(length - 1, -1, -1)
    return torch.arange(vocab_size**length)[:, None] // digits % vocab_size


def numbers(tokens: Tensor, vocab_size: int) -> Tensor:
    """[N, T] tokens -> [N] int64, the numbers of these answers."""
    return (tokens * vocab_size ** torch.arange(tokens.shape[1] - 1, -1, -1)).sum(1)
