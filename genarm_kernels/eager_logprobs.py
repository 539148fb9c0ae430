"""token_logprobs on a block of logits, in torch operations: what the kernels of logprobs.py do on a device."""

import torch
from torch import Tensor


def finish_rows(logits: Tensor, token_ids: Tensor, ignore_index: int, steps: bool) -> tuple[Tensor, Tensor]:
    """Logits [C, V] -> log p of the tokens [C] and the rows' log-sum-exp [C]; steps: logits become onehot − p."""
    values = logits.float() if logits.element_size() == 2 else logits
    ignored = token_ids == ignore_index
    at = token_ids.masked_fill(ignored, 0)[:, None]
    total = values.logsumexp(1)
    logprobs = (values.gather(1, at)[:, 0] - total).masked_fill_(ignored, 0.0)
    if steps:
        _steps(values, total, at, None)
        logits.copy_(values.masked_fill_(ignored[:, None], 0.0))
    return logprobs, total


def finish_columns(
    logits: Tensor, token_ids: Tensor, ignore_index: int, totals: Tensor, grads: Tensor, first: int
) -> None:
    """Logits [N, Vb] of the ids from `first` on become (onehot − p) · grads, rows that are ignored 0."""
    values = logits.float() if logits.element_size() == 2 else logits
    here = (token_ids >= first) & (token_ids < first + logits.shape[1]) & (token_ids != ignore_index)
    at = torch.where(here, token_ids - first, 0)[:, None]
    _steps(values, totals, at, here)
    values.mul_(grads[:, None])
    logits.copy_(values.masked_fill_((token_ids == ignore_index)[:, None], 0.0))


def _steps(values: Tensor, totals: Tensor, at: Tensor, here: Tensor | None) -> None:
    values.sub_(totals[:, None]).exp_().neg_()
    one = torch.ones_like(totals) if here is None else here.to(values.dtype)
    values.scatter_add_(1, at, one[:, None])
