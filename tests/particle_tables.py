"""What particles draw from on models that are known whole, enumerated in float64; and how far their draws are from it.

With s(v) = Σ_m w_m log p_m(v | prefix), cut by the filters and divided by the temperature τ, each token of a prefix has

    log Z(prefix) = log Σ_{v kept} exp(s(v) / τ)

Token by token an answer is drawn with log q(y) = Σ_t s(y_t)/τ − log Z(y_<t); particles are to draw it in proportion to
γ(y) = q(y) · Π_t Z(y_<t), the product over whole answers, and Ẑ is to be Σ_y γ(y) in the mean.

Answers are numbered as in genarm.evaluation.tabular; behind an EOS they have the id 0.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genarm import GenerationOutput
from genarm.evaluation.tabular import Tables, kl, numbers


@dataclass(frozen=True)
class Target:
    """drawn: [V^T] float64, log q of every answer; weighted: [V^T], log γ; lengths: [V^T], tokens, EOS included."""

    drawn: Tensor
    weighted: Tensor
    lengths: Tensor

    @property
    def log_z(self) -> float:
        return float(self.weighted.logsumexp(0))

    @property
    def product(self) -> Tensor:
        """[V^T], log γ less log Z."""
        return self.weighted.log_softmax(0)

    def times(self, factors: Tensor) -> Target:
        """The target with γ multiplied by exp(factors), [V^T]."""
        return Target(self.drawn, self.weighted + factors, self.lengths)


def enumerated(
    models: Sequence[Tables],
    weights: Sequence[float],
    temperature: float = 1.0,
    top_k: int = 0,
    min_p: float = 0.0,
    base_min_p: float = 0.0,
    eos: int | None = None,
) -> Target:
    """One token after the other, for all prefixes at once. ``weights``: of all models, the base's first."""
    drawn, weighted = (torch.zeros(1, dtype=torch.float64) for _ in range(2))
    lengths, ended = torch.zeros(1, dtype=torch.int64), torch.zeros(1, dtype=torch.bool)
    for depth in zip(*models, strict=True):
        scores = sum(weight * table for weight, table in zip(weights, depth, strict=True)) / temperature
        rows = zip(scores.tolist(), depth[0].exp().tolist(), strict=True)
        kept = torch.tensor([_kept(row, own, top_k, min_p, base_min_p) for row, own in rows])
        scores = torch.where(kept, scores, -math.inf)
        padding = torch.full_like(scores, -math.inf)
        padding[:, 0] = 0.0  # behind an EOS
        going_on = ~ended[:, None]
        log_z = scores.logsumexp(1, keepdim=True)
        drawn = (drawn[:, None] + torch.where(going_on, scores - log_z, padding)).flatten()
        weighted = (weighted[:, None] + torch.where(going_on, scores, padding)).flatten()
        lengths = (lengths[:, None] + going_on.long().expand_as(scores)).flatten()
        is_eos = torch.arange(scores.shape[1]) == eos
        ended = (ended[:, None] | is_eos).flatten()
    return Target(drawn, weighted, lengths)


def _kept(scores: list[float], base: list[float], top_k: int, min_p: float, base_min_p: float) -> list[bool]:
    """Which ids of a prefix the filters leave: by the base's own probabilities first, then by the tempered scores."""
    left = [v for v in range(len(scores)) if base[v] >= base_min_p * max(base)]
    if top_k:
        left = sorted(left, key=lambda v: -scores[v])[:top_k]
    best = max(scores[v] for v in left)
    left = [v for v in left if math.exp(scores[v] - best) >= min_p]
    return [v in left for v in range(len(scores))]


def masses(output: GenerationOutput, vocab_size: int, length: int) -> Tensor:
    """[S, V^T] float64: of each particle system, the normalised weight that every answer has in it."""
    assert output.particles is not None
    found = torch.zeros(len(output.particles), vocab_size**length, dtype=torch.float64)
    for row, system in zip(found, output.particles, strict=True):
        padded = torch.zeros(len(system.tokens), length, dtype=torch.int64)
        for own, tokens in zip(padded, system.tokens, strict=True):
            own[: len(tokens)] = tokens
        row.index_add_(0, numbers(padded, vocab_size), system.log_weights.double().softmax(0))
    return found


def divergence(mass: Tensor, log_evidence: Tensor, target: Target) -> float:
    """KL in nats of what an answer of a particle system is drawn from to the product, from S systems: ``mass`` [S, V^T]
    and ``log_evidence`` [S].

    An answer y is drawn with E[mass(y)], and E[Ẑ · mass(y)] / Z is its share π(y) of the product, so that they differ
    by d(y) = E[(1 − Ẑ/Z) · mass(y)], of which few systems say more than of either. To second order the divergence is
    Σ d² / 2π; what the variance of a mean of S adds to its square is taken off.
    """
    share = target.product.exp()
    own = mass * (1 - (log_evidence - target.log_z).exp())[:, None]
    square = own.mean(0) ** 2 - own.var(0) / len(own)
    return float((square / share)[share > 0].sum()) / 2


def direct_divergence(mass: Tensor, target: Target) -> float:
    """The same from E[mass(y)] alone, less the bias of such an estimate to first order: for many systems."""
    drawn, share = mass.mean(0), target.product.exp()
    bias = (mass.var(0) / len(mass) / share)[share > 0].sum() / 2
    return kl(drawn.log(), target.product) - float(bias)
