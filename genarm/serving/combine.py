"""Σ w z over models whose vocabularies may be padded differently, with a weight per row and model."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor


def combine(logits: Mapping[int, Tensor], weights: Tensor, vocab_size: int) -> Tensor:
    """Logits [B, V_m] by column of ``weights`` [B, M] float32 -> scores [B, vocab_size] float32.

    A weight of 0 leaves a model out, also where its logits are not finite. An id that a model with a weight excludes
    (-inf) or does not have is excluded, whatever the weight's sign.
    """
    scores = torch.zeros(len(weights), vocab_size, dtype=torch.float32, device=weights.device)
    for column, part in logits.items():
        weight = weights[:, column : column + 1]
        own = part[:, :vocab_size].float()
        own = torch.where(own.isneginf(), own, weight * own)
        known = scores[:, : own.shape[1]]
        known += own.masked_fill_(weight == 0, 0.0)
        scores[:, own.shape[1] :].masked_fill_(weight != 0, -torch.inf)
    return scores
