"""The same for a CPU, in torch operations: a few rows at a time, so that all passes but the first find them in cache.

Ids are sound and none is to be ignored: blocks.py has left such rows out.
"""

from collections.abc import Iterator

import torch
from torch import Tensor

# Half a megabyte of float32 for each thread. With fewer elements the operations would cost more than their work.
_ELEMENTS = 2**17


def finish_rows(
    logits: Tensor, token_ids: Tensor, _ignore_index: int, logprobs: Tensor, totals: Tensor, slopes: bool
) -> None:
    """Logits [C, V] -> log p of the tokens and the rows' log-sum-exp, [C] each; logits are lost, or with slopes
    become onehot − p."""
    for rows, values in _in_cache(logits, slopes):
        at = token_ids[rows, None]
        peaks = values.amax(1, keepdim=True)
        picked = values.gather(1, at)
        sums = values.sub_(peaks).exp_().sum(1, keepdim=True)
        total = peaks + sums.log()
        logprobs[rows], totals[rows] = (picked - total)[:, 0], total[:, 0]
        if slopes:
            values.div_(-sums).scatter_add_(1, at, torch.ones_like(sums))


def finish_columns(
    logits: Tensor, token_ids: Tensor, _ignore_index: int, totals: Tensor, grads: Tensor, first: int
) -> None:
    """Logits [N, width] of the ids from `first` on become (onehot − p) · grads."""
    width = logits.shape[1]
    for rows, values in _in_cache(logits, True):
        values.sub_(totals[rows, None]).exp_().mul_(-grads[rows, None])
        at = token_ids[rows, None] - first
        here = (at >= 0) & (at < width)
        values.scatter_add_(1, at.where(here, 0), grads[rows, None].where(here, 0))


def _in_cache(logits: Tensor, keep: bool) -> Iterator[tuple[slice, Tensor]]:
    """Some rows after the other, in float32 at least; what is done to them in place stays done where `keep` says so."""
    N, width = logits.shape
    step = max(1, _ELEMENTS * torch.get_num_threads() // width)
    scratch = None
    if logits.element_size() == 2:
        scratch = logits.new_empty(min(step, N), width, dtype=torch.float32)
    for start in range(0, N, step):
        rows = slice(start, min(start + step, N))
        part = logits[rows]
        values = part if scratch is None else scratch[: len(part)].copy_(part)
        yield rows, values
        if keep and scratch is not None:
            part.copy_(values)
