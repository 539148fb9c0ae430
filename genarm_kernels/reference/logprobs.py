"""The oracle of token_logprobs."""

import torch
from torch import Tensor


def token_logprobs(
    hidden: Tensor, lm_head: Tensor, token_ids: Tensor, bias: Tensor | None = None, ignore_index: int = -100
) -> Tensor:
    """log_softmax of all logits in float64, read at the tokens, [N]: not rounded, differentiable."""
    logits = hidden.double() @ lm_head.double().T
    if bias is not None:
        logits = logits + bias.double()
    ignored = token_ids == ignore_index
    picked = logits.log_softmax(1).gather(1, token_ids.masked_fill(ignored, 0)[:, None])[:, 0]
    return torch.where(ignored, 0.0, picked)
