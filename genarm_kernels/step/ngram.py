"""Prompt lookup: what followed a text's last tokens where they stood before, as a draft of what follows them now.

    place      where the last k tokens end at an earlier place too: k as large as may be up to MOST_MATCH, at least
               LEAST_MATCH, and of places with one k the latest
    draft      the tokens from there on; where they reach the text's end, those that were drafted before (a period)

The first kernel has one program per 1,024 columns of a row, which read 8 KB and leave the best place among them, as
k · 2³² + column; the second, one program per row, takes the best of those. Programs share nothing, and what stands
behind a row's end is not read. Source: prompt lookup decoding (Saxena, 2023); it costs no pass of any model.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.step import cpu_ngram, rules

COLUMNS = 1024
_LEAST, _MOST = map(tl.constexpr, (rules.LEAST_MATCH, rules.MOST_MATCH))
_NO_TOKEN, _NEVER = map(tl.constexpr, (rules.NO_TOKEN, rules.NEVER))


@triton.jit(do_not_specialize=["T", "parts"], do_not_specialize_on_alignment=["positions"])
def match_kernel(texts, positions, best, T, parts, COLUMNS: tl.constexpr):
    """One program per COLUMNS columns of a row. best: [B, parts]."""
    row, part = tl.program_id(0).to(tl.int64), tl.program_id(1)
    end = tl.load(positions + row)
    text = texts + row * T
    columns = part * COLUMNS + tl.arange(0, COLUMNS)
    # Something has to follow the match, so it ends before the text does.
    is_earlier = columns < end - 1
    agrees = is_earlier
    length = tl.zeros((COLUMNS,), tl.int64)
    for back in tl.static_range(_MOST):
        last = tl.load(text + end - 1 - back, mask=end > back, other=_NEVER)
        token = tl.load(text + columns - back, mask=is_earlier & (columns >= back), other=_NO_TOKEN)
        agrees = agrees & (token == last)
        length += agrees
    tl.store(best + row * parts + part, tl.max(length * (1 << 32) + columns, 0))


@triton.jit(do_not_specialize=["T", "parts", "gamma"], do_not_specialize_on_alignment=["positions"])
def copy_kernel(
    texts, positions, best, drafts, proposed, T, parts, gamma, PARTS: tl.constexpr, GAMMA: tl.constexpr
):  # fmt: skip
    """One program per row. PARTS, GAMMA: powers of two from parts and gamma on."""
    row = tl.program_id(0).to(tl.int64)
    end = tl.load(positions + row)
    each, ahead = tl.arange(0, PARTS), tl.arange(0, GAMMA)
    key = tl.max(tl.load(best + row * parts + each, mask=each < parts, other=0), 0)
    found = key >= _LEAST * (1 << 32)
    place = key & 0xFFFFFFFF
    period = tl.maximum(end - 1 - place, 1)
    is_draft = ahead < gamma
    token = tl.load(texts + row * T + place + 1 + ahead % period, mask=is_draft & found, other=0)
    tl.store(drafts + row * gamma + ahead, token, mask=is_draft)
    tl.store(proposed + row, tl.where(found, gamma, 0).to(tl.int64))


def ngram_draft(texts: Tensor, positions: Tensor, gamma: int) -> tuple[Tensor, Tensor]:
    """What followed rows' last tokens at the latest of the places where most of them stood before.

    Args:
        texts: [B, T] int64, T below 2³¹. What stands behind a row's end is of no weight.
        positions: [B] int64, how many tokens each row's text has, 0 to T.
        gamma: how many tokens to draft, at least 1.

    Returns:
        Drafts [B, gamma] int64, 0 where nothing was found, and how many are proposed, [B] int64: gamma or 0.

    Raises:
        ValueError: shapes or dtypes that do not fit together, or no tokens to draft.
    """
    if texts.ndim != 2 or positions.shape != texts.shape[:1] or {texts.dtype, positions.dtype} != {torch.int64}:
        raise ValueError(
            f"texts are {texts.dtype} {list(texts.shape)} and positions {positions.dtype} {list(positions.shape)}: "
            "expected torch.int64 [B, T] and [B]"
        )
    if gamma < 1:
        raise ValueError(f"gamma is {gamma}: expected at least 1 token to draft")
    if not (texts.is_cuda or INTERPRETED):
        return cpu_ngram.ngram_draft(texts, positions, gamma)
    with on_device(texts.device):
        return _launch(texts.contiguous(), positions.contiguous(), gamma)


def _launch(texts: Tensor, positions: Tensor, gamma: int) -> tuple[Tensor, Tensor]:
    B, T = texts.shape
    parts = max(triton.cdiv(T, COLUMNS), 1)
    best, drafts, proposed = texts.new_empty(B, parts), texts.new_empty(B, gamma), torch.empty_like(positions)
    if B:
        match: Any = match_kernel[(B, parts)]
        match(texts, positions, best, T, parts, COLUMNS=COLUMNS, num_warps=4)
        copy: Any = copy_kernel[(B,)]
        copy(
            texts, positions, best, drafts, proposed, T, parts, gamma,
            PARTS=triton.next_power_of_2(parts), GAMMA=triton.next_power_of_2(gamma), num_warps=1,
        )  # fmt: skip
    return drafts, proposed
