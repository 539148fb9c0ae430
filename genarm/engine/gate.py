"""Where a step guides: the base's own distribution against each row's thresholds, on the device.

One softmax, one log-softmax and two reductions over the base's logits, [B, V] in float32: nothing waits for the host,
and nothing runs where no row asks for it.
"""

from __future__ import annotations

import torch
from torch import Tensor

LEAST = -1e4  # in place of log 0, so that 0 · log 0 is 0


def guided_rows(logits: Tensor, gate: Tensor, vocab_size: int) -> Tensor:
    """[B] bool: whether the base's distribution at temperature 1 over the V ids has at least the entropy gate[:, 0],
    in nats, and a top probability of at most gate[:, 1].

    logits: [B, ≥ V]. A row of them that holds NaN is guided, and fails as it does without a gate.
    """
    logits = logits[:, :vocab_size]
    probabilities = torch.softmax(logits, 1, dtype=torch.float32)
    log_probabilities = torch.log_softmax(logits, 1, dtype=torch.float32).clamp(min=LEAST)
    entropy = -(probabilities * log_probabilities).sum(1)
    return ~((entropy < gate[:, 0]) | (probabilities.amax(1) > gate[:, 1]))


def gated_weights(weights: Tensor, guided: Tensor) -> Tensor:
    """The weights [B, M] of a step: 0 for every reward model in rows that are not ``guided`` [B]."""
    rewards = torch.where(guided[:, None], weights[:, 1:], 0.0)
    return torch.cat([weights[:, :1], rewards], 1)
