"""What both searches ask of the models: which tokens may follow a text, and what each is worth."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import isfinite
from typing import Literal

import torch
from torch import Tensor

from ..decoder import GuidedDecoder
from ..models.scalar import ScalarModel
from .call import Call, MethodRow
from .draws import top_candidates

Prior = Literal["base", "guided"]


@dataclass(frozen=True, slots=True)
class Child:
    """A token that may follow a text.

    prior: its probability among the text's children. base: log π_base(token | text). gain: w · log π_r(token | text), 0
    where a scorer gives the values.
    """

    token: int
    prior: float
    base: float
    gain: float


@dataclass(frozen=True, slots=True)
class Objective:
    """What is searched for: the models that say it, and how.

    policy: a decoder of the base, and the reward model where there is no ``scorer``. weight: w. expansions: k, children
    per text. length_power: p. scorer: gives the value of a text in the reward model's place.
    """

    call: Call
    policy: GuidedDecoder
    scorer: ScalarModel | None
    weight: float
    expansions: int
    prior: Prior
    length_power: float

    def children(self, logits: Sequence[Tensor], owners: Sequence[MethodRow]) -> list[list[Child]]:
        """The k likeliest tokens behind n texts, by the M logits [n, V_m], the likeliest first; none of a failed
        row's."""
        base = self.call.scores(logits[0], owners).log_softmax(1)
        gains = self._gains(logits, owners, base)
        scores = (base + gains if self.prior == "guided" else base).masked_fill(gains.isinf(), -torch.inf)
        self.call.check_left(scores, owners)
        best, ids = top_candidates(scores, self.expansions)
        columns = (ids, best.softmax(1), base.gather(1, ids), gains.gather(1, ids))
        found = []
        for owner, *own in zip(owners, *(column.tolist() for column in columns), strict=True):
            rows = [] if owner.reason == "error" else zip(*own, strict=True)
            found.append([Child(*row) for row in rows if isfinite(row[2]) and isfinite(row[3])])
        return found

    def _gains(self, logits: Sequence[Tensor], owners: Sequence[MethodRow], base: Tensor) -> Tensor:
        """w · log π_r of every token, [n, V]; −inf for those that the reward model lacks."""
        gains = torch.zeros_like(base)
        if self.scorer is not None or self.weight == 0:
            return gains
        known = min(logits[1].shape[1], base.shape[1])
        reward = logits[1][:, :known].float()
        self.call.check(reward, owners, self.policy.reward_names[0])
        gains[:, known:] = -torch.inf
        gains[:, :known] = self.weight * reward.log_softmax(1)
        return gains

    def check_values(self, values: Tensor, owners: Sequence[MethodRow]) -> None:
        """Fail the rows for which the scorer's values [n] are not finite."""
        assert self.scorer is not None, "values come from a scorer"
        self.call.check_scores(values[:, None], owners, self.scorer.name)

    def per_length(self, total: float, tokens: int) -> float:
        """A sum over so many tokens, divided by their number to the power p."""
        return float(total / max(1, tokens) ** self.length_power)
