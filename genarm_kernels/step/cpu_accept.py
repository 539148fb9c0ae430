"""A step's tail where drafts are verified, in torch. Nothing is read back, as in cpu.py."""

# mypy: disable-error-code="no-untyped-call"

from functools import cache
from typing import Any

import torch
from torch import Tensor

from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.step.cpu import places_back
from genarm_kernels.step.rules import ANY_TOKEN, EOS, ERROR, GOING_ON, NO_TOKEN, STOP, fits, is_over, reason
from genarm_kernels.step.texts import Texts


def accept(sample: GuidedSample, drafts: Tensor, proposed: Tensor, texts: Texts) -> None:
    """All rows and places at once. A draw that is not taken is written too, behind its row's end."""
    B, Q = len(drafts), drafts.shape[1] + 1
    # Of one dtype, and no number of a bool: torch takes three times as long over two.
    tokens, status = sample.tokens.view(B, Q), sample.status.long().view(B, Q)
    places, of_drafts, end = _places(Q, drafts.device)
    columns = texts.positions.unsqueeze(1) + places
    texts.texts.scatter_(1, columns, tokens)
    ends = _ends(tokens, status, columns, texts)
    last, agreeing = torch.where(ends == GOING_ON, end, places).amin(1), proposed
    if Q > 1:
        is_drawn = tokens.narrow(1, 0, Q - 1) == drafts
        agreeing = torch.where(is_drawn, end, of_drafts).amin(1).minimum(proposed)
    room = texts.limits - texts.counts
    is_idle = (room <= 0) | (texts.reasons != GOING_ON)
    last = last.minimum(agreeing).minimum(room.sub_(1).clamp_(min=0))
    fault = status.gather(1, last.unsqueeze(1)).squeeze(1)
    taken = (last + 1).sub_(fault.sign()).masked_fill_(is_idle, 0)
    _keep(sample, tokens, taken, places, texts)

    newest = tokens.gather(1, (taken - 1).clamp_(min=0).unsqueeze(1)).squeeze(1)
    torch.where(taken == 0, texts.tokens, newest, out=texts.tokens)
    torch.where(is_idle, texts.reasons, ends.gather(1, last.unsqueeze(1)).squeeze(1), out=texts.reasons)
    texts.positions.add_(taken)
    texts.counts.add_(taken)
    texts.report[:Q] = tokens.t()
    accepted, proposed = agreeing.minimum(taken), proposed.masked_fill(is_idle, 0)
    fault.masked_fill_(is_idle, 0)
    torch.stack([taken, accepted, proposed, texts.reasons, fault], out=texts.report[texts.most :])


def _ends(tokens: Tensor, status: Tensor, columns: Tensor, texts: Texts) -> Tensor:
    """[B, Q] how each draw ends its row, as if that went on before it: of others none is looked at."""
    is_eos = torch.isin(tokens, texts.eos_ids) if texts.eos_ids.numel() else False
    is_stop = _stops(columns, texts) if texts.stops.numel() else False
    over = is_over(texts.reasons.unsqueeze(1), status)
    found: Tensor = reason(GOING_ON, over, is_eos, is_stop, _where, torch.zeros_like(tokens), EOS, STOP, ERROR)
    return found


def _where(condition: Tensor | bool, x: Any, y: Any) -> Any:
    """The rules' where, in place of y: much faster than torch.where."""
    if isinstance(condition, bool):
        return x if condition else y
    return y.masked_fill_(condition, x)


def _stops(columns: Tensor, texts: Texts) -> Tensor:
    """[B, Q] whether a row's new tokens, up to the draw in this column, end in a stop sequence."""
    back = columns.unsqueeze(2) + places_back(texts.stops.shape[1], columns.device)  # [B, Q, L]
    before = back < (texts.positions - texts.counts).view(-1, 1, 1)
    last = texts.texts.gather(1, back.clamp_(min=0).flatten(1)).view_as(back).masked_fill_(before, NO_TOKEN)
    matched: Tensor = fits(last.unsqueeze(2), texts.stops, ANY_TOKEN)
    return matched.all(3).any(2)


def _keep(sample: GuidedSample, tokens: Tensor, taken: Tensor, places: Tensor, texts: Texts) -> None:
    """What is kept of each draw, in the row's own columns."""
    B, Q = tokens.shape
    if texts.seen is not None:
        # A draw that is not taken stands for the row's first one, which is seen as soon as any is.
        is_taken, first = places < taken.unsqueeze(1), tokens[:, :1]
        is_seen = texts.seen.gather(1, first) | is_taken[:, :1]
        texts.seen.scatter_(1, torch.where(is_taken, tokens, first), is_seen.expand(B, Q))
    if texts.logprobs is not None and texts.model_logprobs is not None:
        columns = texts.counts.unsqueeze(1) + places
        assert sample.logprobs is not None and sample.model_logprobs is not None
        texts.logprobs.scatter_(1, columns, sample.logprobs.view(B, Q))
        own = sample.model_logprobs.view(B, Q, -1)
        texts.model_logprobs.scatter_(1, columns.unsqueeze(2).expand_as(own), own)
    if texts.log_normalizers is not None:
        assert sample.log_normalizers is not None
        texts.log_normalizers.scatter_(1, texts.counts.unsqueeze(1) + places, sample.log_normalizers.view(B, Q))


@cache
def _places(count: int, device: torch.device) -> tuple[Tensor, Tensor, Tensor]:
    """Those of the draws, those of the drafts, and the one behind the drafts."""
    with torch.inference_mode(False):  # the next caller may be outside of the mode that this one is in
        places = torch.arange(count, device=device)
        return places, places[:-1], places[-1:]
