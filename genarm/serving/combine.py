"""Σ w z over models whose vocabularies may be padded differently, with a weight per row and model."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

import torch
from torch import Tensor


def combine(logits: Mapping[int, Tensor], weights: Tensor, vocab_size: int) -> tuple[Tensor, Tensor]:
    """Logits [B, V_m] by column of ``weights`` [B, M] float32 -> scores [B, vocab_size] float32, and a status per row
    [B] int32, 0 where it can be drawn from.

    A weight of 0 leaves a model out, also where its logits are not finite. An id that a model with a weight excludes
    (-inf) or does not have is excluded, whatever the weight's sign. In a row with another status than 0 (``reason``)
    all scores are 0: something that any sampler can draw from, for a token that nobody takes.
    """
    scores = torch.zeros(len(weights), vocab_size, dtype=torch.float32, device=weights.device)
    status = torch.zeros(len(weights), dtype=torch.int32, device=weights.device)
    for column, part in logits.items():
        weight = weights[:, column : column + 1]
        own = part[:, :vocab_size].float()
        bad = ~(own.amax(1) < math.inf) & (weight[:, 0] != 0)  # NaN is the largest to amax
        status |= bad.to(torch.int32) << column
        own = torch.where(own.isneginf(), own, weight * own)
        known = scores[:, : own.shape[1]]
        known += own.masked_fill_(weight == 0, 0.0)
        scores[:, own.shape[1] :].masked_fill_(weight != 0, -torch.inf)
    nothing = (status == 0) & (scores.amax(1) == -math.inf)
    status.masked_fill_(nothing, 1 << weights.shape[1])
    return scores.masked_fill_((status != 0)[:, None], 0.0), status


def mark(logits: Tensor, status: Tensor) -> None:
    """Write as many NaN into each row of ``logits`` [B, V] as its status [B] says, and 0 elsewhere; rows of status 0
    stay as they are."""
    logits.masked_fill_((status != 0)[:, None], 0.0)
    logits.masked_fill_(torch.arange(logits.shape[1], device=logits.device) < status[:, None], math.nan)


def reason(where: str, status: int, names: Sequence[str]) -> str:
    """What a row's status says: bit m stands for NaN or +inf in the logits of the m-th of ``names``, the bit behind
    them for a row in which every id is excluded."""
    if status >> len(names):
        return f"{where}: the models together exclude every token: give one of them weight 0"
    bad = [name for bit, name in enumerate(names) if status >> bit & 1]
    return (
        f"{where}: the logits of {' and '.join(map(repr, bad))} hold NaN or +inf: check that model's weights and dtype "
        "(float16 overflows where bfloat16 does not)"
    )
