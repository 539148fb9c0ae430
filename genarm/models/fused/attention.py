"""Attention over the cache: prompts by what is at hand, the newest tokens by our own kernel or flash-attn.

flash-attn is taken for prompts where it is installed and the tensors allow it; everywhere else it is torch's
scaled_dot_product_attention, span by span.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention

import genarm_kernels
from genarm_kernels.layer.cpu import may_hide_nan, with_nan

from .flash import flash_attn, give_up

# What attends from the newest tokens.
AttentionName = Literal["kernel", "flash-attn"]
# Tokens of a span that share a mask: [PIECE, positions] bits at most, and under a window few positions too many.
PIECE = 1024


@dataclass(frozen=True, slots=True)
class Span:
    """Tokens of one cache row, one behind the other, at positions start … start + count − 1."""

    row: int
    start: int
    count: int

    @property
    def stop(self) -> int:
        return self.start + self.count


def prefill_attention(
    query: Tensor, key_cache: Tensor, value_cache: Tensor, spans: Sequence[Span], scale: float, window: int = 0
) -> Tensor:
    """Causal attention of packed prompt tokens, whose keys and values are in the caches, as all earlier ones' are.

    query: [N, H, D], the spans' tokens in order. key_cache, value_cache: [R, T, H_kv, D], any strides but the last, 1.
    window: 0, or how many positions up to its own a token sees. -> [N, H, D].

    Memory beside the result is linear: without flash-attn, masks for PIECE tokens at a time, where a span has a past or
    a window cuts it.

    Raises:
        ValueError: for spans that are not the N tokens of the query, or not in the cache.
    """
    _check(query, key_cache, spans, window)
    attend = _flash_prefill if _flash_takes(query, key_cache, value_cache) else _torch_prefill
    out = torch.empty_like(query, memory_format=torch.contiguous_format)
    done = 0
    for run in _runs(spans, same_start=attend is _torch_prefill):
        count = len(run) * run[0].count
        part = slice(done, done + count)
        tokens = query[part].view(len(run), run[0].count, *query.shape[1:])
        try:
            found = attend(tokens, key_cache, value_cache, run, scale, window)
        except Exception as error:
            if attend is _torch_prefill:
                raise
            give_up(error)
            return prefill_attention(query, key_cache, value_cache, spans, scale, window)
        out[part] = found.flatten(0, 1)
        done += count
    return out


def decode_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    scale: float | None = None,
    window: int = 0,
    backend: AttentionName = "kernel",
    arrivals: Tensor | None = None,
) -> Tensor:
    """genarm_kernels.decode_attention, or flash-attn's kernel for the same, which has no use for arrivals.

    Raises:
        ValueError: for backend "flash-attn" where it is not installed or does not take the tensors.
    """
    if backend == "kernel":
        return genarm_kernels.decode_attention(query, key_cache, value_cache, lengths, scale, window, arrivals=arrivals)
    if not _flash_takes(query, key_cache, value_cache):
        raise ValueError(
            'backend="flash-attn" needs flash-attn installed and bfloat16 or float16 tensors on CUDA, heads of a '
            'multiple of 8 up to 256: use backend="kernel"'
        )
    scale = query.shape[3] ** -0.5 if scale is None else scale
    return _flash(query, key_cache, value_cache, lengths, scale, window)


def _check(query: Tensor, keys: Tensor, spans: Sequence[Span], window: int) -> None:
    tokens = sum(span.count for span in spans)
    if query.ndim != 3 or tokens != len(query):
        raise ValueError(f"query is {list(query.shape)} and the spans have {tokens} tokens: expected [{tokens}, H, D]")
    if query.shape[1] % keys.shape[2] or query.shape[2] != keys.shape[3]:
        raise ValueError(
            f"query {list(query.shape)} and caches {list(keys.shape)} do not fit: expected [N, H, D] and "
            "[R, T, H_kv, D] with H a multiple of H_kv"
        )
    R, T = keys.shape[:2]
    for span in spans:
        if not (0 <= span.row < R and 0 <= span.start < span.stop <= T):
            raise ValueError(f"{span} is not within caches of {R} rows and {T} positions, or is empty")
    if window < 0:
        raise ValueError(f"window is {window}: expected 0 for all positions, or how many a token sees")


def _runs(spans: Sequence[Span], same_start: bool) -> Iterator[list[Span]]:
    """Neighbouring spans that one call takes: of the same count, and of the same start where masks are shared."""
    for _, run in groupby(spans, lambda span: (span.count, span.start if same_start else 0)):
        yield list(run)


def _rows(cached: Tensor, run: list[Span]) -> Tensor:
    """[len(run), T, H_kv, D]: a view where the rows are evenly spaced, as they mostly are, else a copy."""
    rows = [span.row for span in run]
    step = rows[1] - rows[0] if len(rows) > 1 else 1
    if step > 0 and rows == list(range(rows[0], rows[-1] + 1, step)):
        return cached[rows[0] : rows[-1] + 1 : step]
    return cached[rows]


def _torch_prefill(query: Tensor, keys: Tensor, values: Tensor, run: list[Span], scale: float, window: int) -> Tensor:
    """[B, count, H, D] of spans with one start and one count, by scaled_dot_product_attention."""
    span = run[0]
    causal = span.start == 0 and not 0 < window < span.count
    masked = not causal and span.count > 1
    if masked and span.count > PIECE:
        parts = [
            [Span(s.row, s.start + at, min(PIECE, s.count - at)) for s in run] for at in range(0, span.count, PIECE)
        ]
        return torch.cat(
            [
                _torch_prefill(tokens, keys, values, part, scale, window)
                for tokens, part in zip(torch.split(query, PIECE, 1), parts, strict=True)
            ],
            1,
        )
    # What no token of the span sees is left out.
    first = max(span.start - window + 1, 0) if window else 0
    k, v = (_rows(cached[:, first : span.stop], run).transpose(1, 2) for cached in (keys, values))
    G = query.shape[2] // keys.shape[2]
    if G > 1 and query.device.type == "cuda" and (masked or query.dtype == torch.float32):
        # With shared key heads and a mask, or float32, torch has only its slow way there, which holds all scores.
        k, v = k.repeat_interleave(G, 1), v.repeat_interleave(G, 1)
    out = scaled_dot_product_attention(
        query.transpose(1, 2),
        k,
        v,
        attn_mask=_mask(span, first, window, query.device) if masked else None,
        is_causal=causal,
        scale=scale,
        enable_gqa=k.shape[1] != query.shape[2],
    ).transpose(1, 2)
    if query.device.type != "cpu" or not may_hide_nan(out):
        return out
    return with_nan(out, query, _rows(keys[:, span.start : span.stop], run))


def _mask(span: Span, first: int, window: int, device: torch.device) -> Tensor:
    """[count, stop − first]: whether a token of the span sees a position."""
    place = torch.arange(span.start, span.stop, device=device)[:, None]
    at = torch.arange(first, span.stop, device=device)
    seen = at <= place
    return seen & (at > place - window) if window else seen


def _flash_prefill(query: Tensor, keys: Tensor, values: Tensor, run: list[Span], scale: float, window: int) -> Tensor:
    """[B, count, H, D] of spans with one count, by flash-attn; a span's start is its row's length less the count."""
    rows = [span.row for span in run]
    lengths = torch.tensor([span.stop for span in run], dtype=torch.int32).to(query.device, non_blocking=True)
    if rows == list(range(rows[0], rows[0] + len(rows))):
        return _flash(query, keys[rows[0] : rows[-1] + 1], values[rows[0] : rows[-1] + 1], lengths, scale, window)
    index = torch.tensor(rows, dtype=torch.int32).to(query.device, non_blocking=True)
    return _flash(query, keys, values, lengths, scale, window, cache_batch_idx=index)


def _flash(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float, window: int, **rows: Tensor
) -> Tensor:
    """flash_attn_with_kvcache: its causal order is aligned to the lengths' ends, its window does not count its own."""
    out: Tensor = flash_attn().flash_attn_with_kvcache(
        query,
        keys,
        values,
        cache_seqlens=lengths,
        softmax_scale=scale,
        causal=True,
        window_size=(window - 1, 0) if window else (-1, -1),
        **rows,
    )
    return out


def _flash_takes(query: Tensor, keys: Tensor, values: Tensor) -> bool:
    """Whether flash-attn is installed and takes tensors like these: its copies are 16 bytes wide."""
    D = query.shape[-1]
    return (
        query.device.type == "cuda"
        and query.dtype in (torch.bfloat16, torch.float16)
        and D % 8 == 0
        and D <= 256
        and all(stride % 8 == 0 for cached in (keys, values) for stride in cached.stride()[:3])
        and flash_attn() is not None
    )
