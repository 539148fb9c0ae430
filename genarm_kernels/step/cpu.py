"""A step's tail in torch. Nothing is read back, so recorded operations can be replayed on other values."""

# mypy: disable-error-code="no-untyped-call"

from functools import cache
from typing import Any, Literal

import torch
from torch import Tensor

from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.step.progress import Progress
from genarm_kernels.step.rules import ANY_TOKEN, EOS, ERROR, NO_TOKEN, STOP, fault, fits, is_over, reason


def advance(sample: GuidedSample, progress: Progress, pad_id: int, excuse_ended: bool) -> None:
    """All rows at once; whatever has a column per step is scattered into it."""
    # Of one dtype: torch takes three times as long over two.
    tokens, reasons, status = sample.tokens, progress.reasons, sample.status.long()
    now, over = progress.step.expand(len(tokens), 1), is_over(reasons, status)
    progress.generated.scatter_(1, now, tokens.masked_fill(over, pad_id).unsqueeze(1))
    is_eos = torch.isin(tokens, progress.eos_ids) if progress.eos_ids.numel() else False
    is_stop = _stops(progress) if progress.stops.numel() else False
    if excuse_ended:
        status = fault(status, reasons)
    reason(reasons, over, is_eos, is_stop, where, torch.zeros_like(reasons), EOS, STOP, ERROR)
    torch.stack([tokens, reasons, status], out=progress.report)
    progress.tokens.copy_(tokens)
    if progress.seen is not None:
        progress.seen.scatter_(1, tokens.unsqueeze(1), True)
    if progress.logprobs is not None and progress.model_logprobs is not None:
        assert sample.logprobs is not None and sample.model_logprobs is not None
        progress.logprobs.scatter_(1, now, sample.logprobs.unsqueeze(1))
        of_models = now.unsqueeze(2).expand(-1, -1, progress.model_logprobs.shape[2])
        progress.model_logprobs.scatter_(1, of_models, sample.model_logprobs.unsqueeze(1))
    if progress.log_normalizers is not None:
        assert sample.log_normalizers is not None
        progress.log_normalizers.scatter_(1, now, sample.log_normalizers.unsqueeze(1))
    progress.positions.add_(1)
    progress.step.add_(1)


def where(condition: Tensor | Literal[False], x: Any, y: Tensor) -> Tensor:
    """The rules' where, in place of y: much faster than torch.where if x is a number."""
    if isinstance(condition, bool):
        return y
    return y.masked_fill_(condition, x) if isinstance(x, int) else torch.where(condition, x, y, out=y)


def _stops(progress: Progress) -> Tensor:
    """[B] whether a row's text ends in a stop sequence; that of an ended row may by its padding."""
    columns = progress.step + places_back(progress.stops.shape[1], progress.step.device)
    before = columns < 0
    last = progress.generated.index_select(1, columns.clamp_(min=0)).masked_fill_(before, NO_TOKEN)
    matched: Tensor = fits(last.unsqueeze(1), progress.stops, ANY_TOKEN)
    return matched.all(2).any(1)


@cache
def places_back(length: int, device: torch.device) -> Tensor:
    """[length] places of a text up to its last one, which is 0."""
    with torch.inference_mode(False):  # the next caller may be outside of the mode that this one is in
        return torch.arange(1 - length, 1, device=device)
