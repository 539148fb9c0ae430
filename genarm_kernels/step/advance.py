"""A step's tail: everything that follows from the tokens drawn, for all rows, in one launch.

    kept       the row's token where it was going on and its draw has no fault, else padding: a column of `generated`
    reason     how the row has ended: as before, else ERROR by a fault, else EOS, else STOP, else not at all (rules.py)
    report     tokens, reasons and status, for the host

One program, of one warp, per 8 rows: each has four lanes, which look at four ids of EOS or stop sequences at a time. A
row reads its last L tokens and a few words beside them, so a launch costs more than its bytes. The last program to
arrive counts the step, so each has read the same one.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import triton
import triton.language as tl

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.sampling.arguments import GuidedSample
from genarm_kernels.step import cpu, rules
from genarm_kernels.step.progress import Progress, check_sample, contiguous

ROWS = 8
# Ids of EOS, stop sequences, and places of one, whose loads are on their way at the same time.
AT_ONCE = tl.constexpr(4)
_GOING_ON, _EOS, _STOP, _ERROR = map(tl.constexpr, (rules.GOING_ON, rules.EOS, rules.STOP, rules.ERROR))
_NO_TOKEN, _ANY_TOKEN, _NEVER = map(tl.constexpr, (rules.NO_TOKEN, rules.ANY_TOKEN, rules.NEVER))

is_over, fault = triton.jit(rules.is_over), triton.jit(rules.fault)
fits, reason = triton.jit(rules.fits), triton.jit(rules.reason)


@triton.jit
def is_among(token, lanes, ids, count):
    """[…] whether the tokens, of one dtype and shape with lanes […, AT_ONCE], are some of so many ids."""
    found = token != token
    for first in range(0, count, AT_ONCE):
        places = lanes + first
        found = found | (token == tl.load(ids + places, mask=places < count, other=_NEVER))
    return tl.max(found.to(tl.int32), -1) != 0


@triton.jit
def ends_in_stop(token, lanes, stops, text, inside, step, n, S, L):
    """[ROWS] whether rows' texts, with their tokens behind, end in one of S sequences. text: where they begin."""
    found = token != token
    for first in range(0, S, AT_ONCE):
        sequences = lanes + first
        missed = sequences >= S
        for start in range(0, L, AT_ONCE):
            for i in tl.static_range(AT_ONCE):
                back = lanes * 0 + start + i
                columns = step - back
                earlier = inside & (back > 0) & (columns >= 0) & (columns < n)
                last = tl.where(back == 0, token, tl.load(text + columns, mask=earlier, other=_NO_TOKEN))
                # Before the first place of all sequences there is nothing to ask for.
                there = (back < L) & (sequences < S)
                wanted = tl.load(stops + sequences * L + (L - 1 - back), mask=there, other=_ANY_TOKEN)
                missed = missed | ~fits(last, wanted, _ANY_TOKEN)
        found = found | ~missed
    return tl.max(found.to(tl.int32), 1) != 0


@triton.jit
def keep_figures(sample, progress, rows, step, B, n, M, MODELS: tl.constexpr):
    """What is known of each token, to the step's column. MODELS: a power of two from M on."""
    column = rows * n + step
    written = (rows < B) & (rows * 0 + step < n)
    if progress.logprobs is not None:
        tl.store(progress.logprobs + column, tl.load(sample.logprobs + rows, mask=written), mask=written)
        models = tl.arange(0, MODELS)[None]
        has_model = written[:, None] & (models < M)
        own = tl.load(sample.model_logprobs + rows[:, None] * M + models, mask=has_model)
        tl.store(progress.model_logprobs + column[:, None] * M + models, own, mask=has_model)
    if progress.log_normalizers is not None:
        own = tl.load(sample.log_normalizers + rows, mask=written)
        tl.store(progress.log_normalizers + column, own, mask=written)


@triton.jit
def count_step(step, arrived, steps):
    """Store the next step once every program has read this one."""
    tl.debug_barrier()
    programs = tl.num_programs(0)
    last = programs == 1
    if programs > 1:
        last = tl.atomic_add(arrived, 1) == programs - 1
        if last:
            tl.store(arrived, 0)
    if last:
        tl.store(step, steps + 1)


@triton.jit(do_not_specialize=["pad_id", "seen_stride", "B", "n", "V", "M", "E", "S", "L"])
def advance_kernel(
    sample, progress, pad_id, seen_stride, B, n, V, M, E, S, L,
    EXCUSE_ENDED: tl.constexpr, MODELS: tl.constexpr, ROWS: tl.constexpr,
):  # fmt: skip
    """One program per ROWS rows."""
    rows = tl.program_id(0).to(tl.int64) * ROWS + tl.arange(0, ROWS)
    inside = rows < B
    step = tl.load(progress.step)
    token = tl.load(sample.tokens + rows, mask=inside, other=0)
    status = tl.load(sample.status + rows, mask=inside, other=0)
    before = tl.load(progress.reasons + rows, mask=inside, other=0)
    position = tl.load(progress.positions + rows, mask=inside, other=0)

    # A lane compares one row's tokens with one of the ids or sequences that are loaded at once.
    lanes = (rows * 0)[:, None] + tl.arange(0, AT_ONCE)[None]
    of_lanes, used = rows[:, None] + lanes * 0, inside[:, None] & (lanes >= 0)
    each = tl.load(sample.tokens + of_lanes, mask=used, other=0)
    is_eos = is_among(each, lanes, progress.eos_ids, E)
    is_stop = ends_in_stop(each, lanes, progress.stops, progress.generated + of_lanes * n, used, step, n, S, L)
    over = is_over(before, status)
    after = reason(before, over, is_eos, is_stop, rules.where, _GOING_ON, _EOS, _STOP, _ERROR)
    kept = tl.where(over, pad_id, token)
    if EXCUSE_ENDED:
        status = fault(status, before)

    tl.store(progress.generated + rows * n + step, kept, mask=inside & (rows * 0 + step < n))
    tl.store(progress.tokens + rows, token, mask=inside)
    tl.store(progress.positions + rows, position + 1, mask=inside)
    tl.store(progress.reasons + rows, after, mask=inside)
    tl.store(progress.report + rows, token, mask=inside)
    tl.store(progress.report + B + rows, after, mask=inside)
    tl.store(progress.report + 2 * B + rows, status.to(tl.int64), mask=inside)
    if progress.seen is not None:
        exists = inside & (token >= 0) & (token < V)
        tl.store(progress.seen + rows * seen_stride + token, exists, mask=exists)
    keep_figures(sample, progress, rows, step, B, n, M, MODELS)
    count_step(progress.step, progress.arrived, step)


def advance(sample: GuidedSample, progress: Progress, pad_id: int, excuse_ended: bool = False) -> None:
    """Take a step's draw, in place: write the tokens, see which rows have ended, count on.

    Args:
        sample: of B rows, by `guided_sample`: tokens [B] int64 and status [B] int32, and where progress keeps them
            logprobs [B], model_logprobs [B, M] and log_normalizers [B], float32.
        progress: what the rows have come to, once it has been `checked`. Its step is below n: a GPU, where it is not
            read back, writes nothing behind a row's n tokens.
        pad_id: what `generated` holds where a row has ended.
        excuse_ended: an ended row's status is reported as 0: it draws on, and what it draws is of no weight.

    A row gets its token where it was going on and its draw has no fault. EOS goes before a stop sequence, whose tokens
    are the row's own new ones. Tokens beyond `seen` are not noted there on a GPU, and an error on a CPU.

    Raises:
        ValueError: a draw of another number of rows or models, or without what progress keeps.
    """
    check_sample(sample, progress)
    if not (sample.tokens.is_cuda or INTERPRETED):
        cpu.advance(sample, progress, pad_id, excuse_ended)
    else:
        with on_device(sample.tokens.device):
            _launch(sample, progress, pad_id, excuse_ended)


def _launch(sample: GuidedSample, progress: Progress, pad_id: int, excuse_ended: bool) -> None:
    (B, n), seen, models = progress.generated.shape, progress.seen, progress.model_logprobs
    S, L = progress.stops.shape if progress.stops.numel() else (0, 0)
    V, stride = (0, 0) if seen is None else (seen.shape[1], seen.stride(0))
    M = 1 if models is None else models.shape[2]
    launch: Any = advance_kernel[(max(triton.cdiv(B, ROWS), 1),)]
    launch(
        contiguous(sample), progress, pad_id, stride, B, n, V, M, len(progress.eos_ids), S, L,
        EXCUSE_ENDED=excuse_ended, MODELS=triton.next_power_of_2(M), ROWS=ROWS, num_warps=1, num_stages=1,
    )  # fmt: skip
