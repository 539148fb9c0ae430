"""A step's tail where drafts are verified: how many of a row's draws are tokens of its text, and what follows.

A row has been given a draft of Q - 1 tokens, of which it counts the first few that were proposed, and has drawn at each
of Q places from what its model says after the draft before it. A draw counts where every draft before it was drawn
too, so the first that differs is itself the row's next token:

    taken      the draws up to the first that is not its draft, that ends the row or that fills it; none with a fault
    reason     how the row has ended: by a fault among the draws that were looked at, else EOS, else STOP (rules.py)

Whatever the draft is, the row's text is what it would have been without one. With Q = 1 this is the tail of a plain
step whose rows stand in different places.

One program, of one warp, per 8 draws, or per row if it has more. A draw has four lanes, which look at four ids
of EOS or stop sequences at a time. Each row counts for itself, so programs share nothing.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.step import cpu_accept, rules
from genarm_kernels.step.advance import AT_ONCE, fits, is_among, is_over, reason
from genarm_kernels.step.progress import contiguous
from genarm_kernels.step.texts import ACCEPTED, PROPOSED, REASON, STATUS, TAKEN, Texts, check_draws

DRAWS = 8
_GOING_ON, _EOS, _STOP, _ERROR = map(tl.constexpr, (rules.GOING_ON, rules.EOS, rules.STOP, rules.ERROR))
_NO_TOKEN, _ANY_TOKEN, _NEVER = map(tl.constexpr, (rules.NO_TOKEN, rules.ANY_TOKEN, rules.NEVER))
_TAKEN, _ACCEPTED, _PROPOSED = map(tl.constexpr, (TAKEN, ACCEPTED, PROPOSED))
_REASON, _STATUS = map(tl.constexpr, (REASON, STATUS))


@triton.jit
def ends_in_stop(draws, text, place, before, used, lanes, stops, S, L):
    """[ROWS, PLACES] whether a row's new tokens, up to its draw at this place, end in one of S sequences.

    All but pointers are [ROWS, PLACES, AT_ONCE]. draws: where rows' begin. text: where their next tokens go, behind
    `before` new ones.
    """
    found = place != place
    for first in range(0, S, AT_ONCE):
        sequences = lanes + first
        missed = sequences >= S
        for start in range(0, L, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                back = start + i
                at = place - back
                drawn = tl.load(draws + at, mask=used & (at >= 0), other=_NO_TOKEN)
                earlier = tl.load(text + at, mask=used & (at < 0) & (at >= -before), other=_NO_TOKEN)
                # Before the first place of all sequences there is nothing to ask for.
                there = (sequences < S) & (back < L)
                wanted = tl.load(stops + sequences * L + (L - 1 - back), mask=there, other=_ANY_TOKEN)
                missed = missed | ~fits(tl.where(at >= 0, drawn, earlier), wanted, _ANY_TOKEN)
        found = found | ~missed
    return tl.max(found.to(tl.int32), 2) != 0


@triton.jit
def keep_draws(sample, texts, rows, draws, columns, is_taken, n, M, MODELS: tl.constexpr):
    """What is known of each token, to its row's own column. MODELS: a power of two from M on."""
    column = rows * n + columns
    written = is_taken & (columns < n)
    if texts.logprobs is not None:
        tl.store(texts.logprobs + column, tl.load(sample.logprobs + draws, mask=written), mask=written)
        models = tl.arange(0, MODELS)[None, None]
        has_model = written[:, :, None] & (models < M)
        own = tl.load(sample.model_logprobs + draws[:, :, None] * M + models, mask=has_model)
        tl.store(texts.model_logprobs + column[:, :, None] * M + models, own, mask=has_model)
    if texts.log_normalizers is not None:
        own = tl.load(sample.log_normalizers + draws, mask=written)
        tl.store(texts.log_normalizers + column, own, mask=written)


@triton.jit
def at_place(values, places, place):
    """[ROWS, 1] rows' values [ROWS, PLACES] at their own place, 0 where they have none there."""
    return tl.sum(tl.where(places == place, values, 0), 1, keep_dims=True)


@triton.jit(
    do_not_specialize=["seen_stride", "B", "Q", "most", "T", "n", "V", "M", "E", "S", "L"],
    do_not_specialize_on_alignment=["drafts", "proposed"],
)
def accept_kernel(
    sample, drafts, proposed, texts, seen_stride, B, Q, most, T, n, V, M, E, S, L,
    MODELS: tl.constexpr, ROWS: tl.constexpr, PLACES: tl.constexpr,
):  # fmt: skip
    """One program per ROWS rows. PLACES: a power of two from Q on."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)[:, None]
    places = tl.arange(0, PLACES)[None]
    inside = rows < B
    there = inside & (places < Q)
    draws = rows * Q + places
    token = tl.load(sample.tokens + draws, mask=there, other=0)
    status = tl.load(sample.status + draws, mask=there, other=0).to(tl.int64)
    draft = tl.load(drafts + rows * (Q - 1) + places, mask=inside & (places < Q - 1), other=_NEVER)
    offered = tl.load(proposed + rows, mask=inside, other=0)
    before = tl.load(texts.reasons + rows, mask=inside, other=0)
    count = tl.load(texts.counts + rows, mask=inside, other=0)
    limit = tl.load(texts.limits + rows, mask=inside, other=0)
    position = tl.load(texts.positions + rows, mask=inside, other=0)

    # A lane compares one draw with one of the ids or sequences that are loaded at once.
    nothing = tl.zeros((ROWS, PLACES, AT_ONCE), tl.int32)
    lanes, place = nothing + tl.arange(0, AT_ONCE)[None, None], nothing + places[:, :, None]
    used = there[:, :, None] & (lanes >= 0)
    is_eos = is_among(nothing + token[:, :, None], lanes, texts.eos_ids, E)
    next_tokens = texts.texts + (rows * T + position)[:, :, None]
    own = sample.tokens + (rows * Q)[:, :, None]
    is_stop = ends_in_stop(own, next_tokens, place, count.to(tl.int32)[:, :, None], used, lanes, texts.stops, S, L)
    ends = reason(before, is_over(before, status), is_eos, is_stop, rules.where, _GOING_ON, _EOS, _STOP, _ERROR)

    agreeing = tl.min(tl.where((token == draft) & (places < offered), PLACES, places), 1, keep_dims=True)
    last = tl.minimum(agreeing, tl.min(tl.where(ends == _GOING_ON, PLACES, places), 1, keep_dims=True))
    is_live = (before == _GOING_ON) & (count < limit)
    last = tl.where(is_live, tl.minimum(last, limit - count - 1), -1)
    fault = at_place(status, places, last)
    taken = tl.where(fault == 0, last + 1, last)
    is_taken = places < taken
    after = tl.where(is_live, at_place(ends, places, last), before)
    newest = at_place(token, places, taken - 1)

    # Every lane has read a row's numbers before they change.
    tl.debug_barrier()
    columns = position + places
    tl.store(texts.texts + rows * T + columns, token, mask=is_taken & (columns < T))
    tl.store(texts.positions + rows, position + taken, mask=inside)
    tl.store(texts.counts + rows, count + taken, mask=inside)
    tl.store(texts.tokens + rows, newest, mask=inside & (taken > 0))
    tl.store(texts.reasons + rows, after, mask=inside)
    if texts.seen is not None:
        exists = is_taken & (token >= 0) & (token < V)
        tl.store(texts.seen + rows * seen_stride + token, exists, mask=exists)
    keep_draws(sample, texts, rows, draws, count + places, is_taken, n, M, MODELS)
    tl.store(texts.report + places * B + rows, token, mask=there)
    below = texts.report + most * B + rows
    tl.store(below + _TAKEN * B, taken, mask=inside)
    tl.store(below + _ACCEPTED * B, tl.minimum(agreeing, taken), mask=inside)
    tl.store(below + _PROPOSED * B, tl.where(is_live, offered, 0), mask=inside)
    tl.store(below + _REASON * B, after, mask=inside)
    tl.store(below + _STATUS * B, fault, mask=inside)


def accept(sample: GuidedSample, drafts: Tensor, proposed: Tensor, texts: Texts) -> Tensor:
    """Take the draws that count, in place -> how many each row has taken, [B] int64, a row of the report.

    Args:
        sample: of B·Q rows, row b·Q + q sequence b's draw at place q, by `guided_sample`: tokens and status, and where
            texts keeps them logprobs, model_logprobs and log_normalizers.
        drafts: [B, Q - 1] int64, what stood in place of the draws when the next places were read.
        proposed: [B] int64, how many of a row's drafts are there to be accepted, 0 to Q - 1.
        texts: what the rows have come to, once it has been `checked`.

    A row that has ended, or is full, takes nothing and stays as it is. What stands behind a row's end in texts and
    figures is undefined: torch writes there, and needs Q columns for it. A kernel writes what is taken alone.

    Raises:
        ValueError: a draw that does not fit the rows or the drafts, or without what texts keeps.
    """
    check_draws(sample, drafts, proposed, texts)
    if not (drafts.is_cuda or INTERPRETED):
        cpu_accept.accept(sample, drafts, proposed, texts)
    else:
        with on_device(drafts.device):
            _launch(contiguous(sample), drafts.contiguous(), proposed.contiguous(), texts)
    return texts.report[texts.most + TAKEN]


def _launch(sample: GuidedSample, drafts: Tensor, proposed: Tensor, texts: Texts) -> None:
    (B, T), Q, seen, models = texts.texts.shape, drafts.shape[1] + 1, texts.seen, texts.model_logprobs
    S, L = texts.stops.shape if texts.stops.numel() else (0, 0)
    V, stride = (0, 0) if seen is None else (seen.shape[1], seen.stride(0))
    figures = texts.logprobs if texts.log_normalizers is None else texts.log_normalizers
    n, M = 0 if figures is None else figures.shape[1], 1 if models is None else models.shape[2]
    places = triton.next_power_of_2(Q)
    rows = max(DRAWS // places, 1)
    launch: Any = accept_kernel[(max(triton.cdiv(B, rows), 1),)]
    launch(
        sample, drafts, proposed, texts, stride, B, Q, texts.most, T, n, V, M, len(texts.eos_ids), S, L,
        MODELS=triton.next_power_of_2(M), ROWS=rows, PLACES=places, num_warps=1, num_stages=1,
    )  # fmt: skip
