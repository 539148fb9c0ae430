"""Prompt lookup in torch. Nothing is read back, as in cpu.py."""

from functools import cache

import torch
from torch import Tensor

from genarm_kernels.step.rules import LEAST_MATCH, MOST_MATCH


def ngram_draft(texts: Tensor, positions: Tensor, gamma: int) -> tuple[Tensor, Tensor]:
    """All rows and columns at once: per column how many tokens up to it are the text's last ones."""
    (B, T), ends = texts.shape, positions.unsqueeze(1)
    columns = _columns(max(T, gamma), texts.device)
    if T <= LEAST_MATCH:
        return texts.new_zeros(B, gamma), torch.zeros_like(positions)
    agrees, length = columns[:T] < ends - 1, torch.zeros_like(texts)
    for back in range(min(MOST_MATCH, T)):
        last = texts.gather(1, (ends - 1 - back).clamp_(min=0))
        # Of the columns from this one on: those before it have nothing so far back, and a short row has none left.
        agrees = (texts.narrow(1, 0, T - back) == last).logical_and_(agrees.narrow(1, min(back, 1), T - back))
        length.narrow(1, back, T - back).add_(agrees)
    key = length.mul_(T).add_(columns[:T]).amax(1, keepdim=True)
    is_nothing, place = key < LEAST_MATCH * T, key % T
    ahead = columns[:gamma] % (ends - 1 - place).clamp_(min=1)
    drafts = texts.gather(1, ahead.add_(place).add_(1).clamp_(max=T - 1)).masked_fill_(is_nothing, 0)
    return drafts, torch.full_like(positions, gamma).masked_fill_(is_nothing.squeeze(1), 0)


@cache
def _columns(count: int, device: torch.device) -> Tensor:
    with torch.inference_mode(False):  # the next caller may be outside of the mode that this one is in
        return torch.arange(count, device=device)
