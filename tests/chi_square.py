"""Pearson's χ² of counts against exact probabilities, with the bound that the sampling tests share."""

from __future__ import annotations

import math

import torch
from torch import Tensor


def chi_square(tokens: Tensor, probabilities: Tensor) -> tuple[float, float]:
    """The statistic of tokens [N] under probabilities [V], and its bound df + 10·√(2·df).

    Ids expected fewer than five times count as one cell; a token of probability 0 makes the statistic infinite.
    """
    probabilities = probabilities.double()
    counts = torch.bincount(tokens, minlength=len(probabilities)).double()
    if bool((counts[probabilities == 0] > 0).any()):
        return math.inf, 0.0
    expected = probabilities / probabilities.sum() * len(tokens)
    rare = expected < 5
    cells = torch.cat([counts[~rare], counts[rare].sum()[None]])
    means = torch.cat([expected[~rare], expected[rare].sum()[None]])
    cells, means = cells[means > 0], means[means > 0]
    df = max(len(cells) - 1, 1)
    return float(((cells - means) ** 2 / means).sum()), df + 10 * math.sqrt(2 * df)


def assert_drawn_from(tokens: Tensor, probabilities: Tensor) -> None:
    statistic, bound = chi_square(tokens, probabilities)
    assert statistic < bound


def assert_not_drawn_from(tokens: Tensor, probabilities: Tensor) -> None:
    statistic, bound = chi_square(tokens, probabilities)
    assert statistic > bound
