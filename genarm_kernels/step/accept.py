"""A step's tail where drafts are verified: how many of a row's draws are tokens of its text, and what follows.

A row has been given a draft of Q - 1 tokens, of which it counts the first few that were proposed, and has drawn at each
of Q places from what its model says after the draft before it. A draw counts where every draft before it was drawn
too, so the first that differs is itself the row's next token:

    taken      the draws up to the first that is not its draft, that ends the row or that fills it; none with a fault
    reason     how the row has ended: by a fault among the draws that were looked at, else EOS, else STOP (rules.py)

Whatever the draft is, the row's text is what it would have been without one. With Q = 1 this is the tail of a plain
step whose rows stand in different places.
"""

# mypy: disable-error-code="no-untyped-call"

import torch
from torch import Tensor

from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.step.rules import ANY_TOKEN, EOS, ERROR, GOING_ON, NO_TOKEN, STOP, fits, is_over, reason
from genarm_kernels.step.texts import ACCEPTED, PROPOSED, REASON, STATUS, TAKEN, Texts


def accept(sample: GuidedSample, drafts: Tensor, proposed: Tensor, texts: Texts) -> Tensor:
    """Take the draws that count, in place -> how many each row has taken, [B] int64, a row of the report.

    Args:
        sample: of B·Q rows, row b·Q + q sequence b's draw at place q, by `guided_sample`: tokens and status, and where
            texts keeps them logprobs, model_logprobs and log_normalizers.
        drafts: [B, Q - 1] int64, what stood in place of the draws when the next places were read.
        proposed: [B] int64, how many of a row's drafts are there to be accepted.
        texts: what the rows have come to, once it has been `checked`.

    A row that has ended, or is full, takes nothing and stays as it is. What stands behind a row's end in texts and
    figures is undefined.

    Raises:
        ValueError: a draw that does not fit the rows or the drafts, or without what texts keeps.
    """
    B, Q = _checked(sample, drafts, proposed, texts)
    tokens, status = sample.tokens.view(B, Q), sample.status.view(B, Q).long()
    places = torch.arange(Q, device=tokens.device)
    columns = texts.positions[:, None] + places
    texts.texts.scatter_(1, columns, tokens)
    before = texts.reasons[:, None]
    is_eos, is_stop = _ends(tokens, columns, texts)
    ends = reason(before, is_over(before, status), is_eos, is_stop, torch.where, GOING_ON, EOS, STOP, ERROR)
    agrees = (tokens[:, :-1] == drafts) & (places[:-1] < proposed[:, None])
    goes_on = torch.nn.functional.pad(agrees & (ends[:, :-1] == GOING_ON), (1, 0), value=True)
    is_live = (before == GOING_ON) & (places < (texts.limits - texts.counts)[:, None])
    looked_at = goes_on.cumprod(1).bool() & is_live
    is_taken = looked_at & (status == 0)
    taken, last = is_taken.sum(1), (looked_at.sum(1, keepdim=True) - 1).clamp(min=0)
    texts.reasons.copy_(torch.where(looked_at[:, 0], ends.gather(1, last)[:, 0], texts.reasons))
    newest = tokens.gather(1, (taken[:, None] - 1).clamp(min=0))[:, 0]
    texts.tokens.copy_(torch.where(taken > 0, newest, texts.tokens))
    _keep(sample, tokens, is_taken, texts.counts[:, None] + places, texts)
    texts.positions.add_(taken)
    texts.counts.add_(taken)
    texts.report[:Q] = tokens.t()
    below = texts.report[texts.most :]
    below[TAKEN] = taken
    below[ACCEPTED] = (is_taken[:, :-1] & agrees).sum(1)
    below[PROPOSED] = torch.where(looked_at[:, 0], proposed, 0)
    below[REASON] = texts.reasons
    below[STATUS] = torch.where(looked_at[:, 0], status.gather(1, last)[:, 0], 0)
    return below[TAKEN]


def _ends(tokens: Tensor, columns: Tensor, texts: Texts) -> tuple[Tensor, Tensor]:
    """[B, Q] whether each draw is EOS, and whether the row's new tokens up to it end in a stop sequence."""
    nothing = torch.zeros_like(tokens, dtype=torch.bool)
    is_eos = torch.isin(tokens, texts.eos_ids) if texts.eos_ids.numel() else nothing
    if not texts.stops.numel():
        return is_eos, nothing
    L = texts.stops.shape[1]
    back = columns[:, :, None] - torch.arange(L - 1, -1, -1, device=tokens.device)  # [B, Q, L]
    is_new = back >= (texts.positions - texts.counts)[:, None, None]
    last = texts.texts.gather(1, back.clamp(min=0).flatten(1)).view_as(back).masked_fill(~is_new, NO_TOKEN)
    matched: Tensor = fits(last[:, :, None], texts.stops, ANY_TOKEN)
    return is_eos, matched.all(3).any(2)


def _keep(sample: GuidedSample, tokens: Tensor, is_taken: Tensor, columns: Tensor, texts: Texts) -> None:
    """What is kept of each draw, in the row's own columns."""
    if texts.seen is not None:
        texts.seen.scatter_(1, torch.where(is_taken, tokens, texts.tokens[:, None]), True)
    B, Q = tokens.shape
    if texts.logprobs is not None and texts.model_logprobs is not None:
        assert sample.logprobs is not None and sample.model_logprobs is not None
        texts.logprobs.scatter_(1, columns, sample.logprobs.view(B, Q))
        own = sample.model_logprobs.view(B, Q, -1)
        texts.model_logprobs.scatter_(1, columns[:, :, None].expand_as(own), own)
    if texts.log_normalizers is not None:
        assert sample.log_normalizers is not None
        texts.log_normalizers.scatter_(1, columns, sample.log_normalizers.view(B, Q))


def _checked(sample: GuidedSample, drafts: Tensor, proposed: Tensor, texts: Texts) -> tuple[int, int]:
    B, Q = len(texts.texts), drafts.shape[1] + 1
    kept = (texts.logprobs, sample.logprobs), (texts.log_normalizers, sample.log_normalizers)
    if drafts.shape != (B, Q - 1) or texts.most < Q:
        raise ValueError(f"drafts are {list(drafts.shape)}: expected [{B}, 0 to {texts.most - 1}]")
    if sample.tokens.shape != (B * Q,) or sample.status.shape != (B * Q,) or proposed.shape != (B,):
        raise ValueError(f"the draw or proposed does not fit {B} rows of {Q} places")
    if any(own is not None and of_sample is None for own, of_sample in kept):
        raise ValueError("the draw does not have the figures that are kept of it")
    return B, Q
