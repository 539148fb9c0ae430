"""The attention function that transformers' models call while a session runs them on its static cache.

Registered by name with transformers, and left out of its registry of masks, so that a model builds none: what a row
sees follows from its own length and the layer's sliding window.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from threading import Lock
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from genarm_kernels import decode_attention
from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.layer.cpu import may_hide_nan, with_nan

from .cache import DoesNotTakePart, PassSpan

NAME = "genarm"
QUERY_BLOCK = 512  # prompt tokens whose scores exist at once where attention is not a fused operation
# Keywords that models hand on to their attention and that say nothing about what is attended to.
IGNORED = {
    *("position_ids", "cache_position", "use_cache", "logits_to_keep", "dropout"),
    *("output_attentions", "output_router_logits"),
}
_span: ContextVar[PassSpan | None] = ContextVar("span", default=None)
# Configurations whose modules attend by us now, by their ids: each, what it had before, and how many blocks it is in.
_taken: dict[int, tuple[Any, Any, int]] = {}
_TAKING = Lock()


def attention(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None = None,
    *,
    scaling: float | None = None,
    sliding_window: int | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Query [n, H, T, D] on what ``SlotCache.update`` returned -> [n, T, H, E], and no weights.

    ``sliding_window``: only the last so many positions, one's own included. ``softcap`` c: c · tanh(score / c).
    ``s_aux`` [H]: the logit of a sink, which takes its share of the weights and has no value.
    """
    span = _span.get()
    if span is None:
        raise RuntimeError(f"the attention implementation {NAME!r} serves genarm's own forward passes only")
    span.attended.add(getattr(module, "layer_idx", None))
    scale = query.shape[-1] ** -0.5 if scaling is None else scaling
    fused = softcap is None and s_aux is None
    if span.positions is None:
        _check(module, attention_mask, sliding_window, others)
        mask = _mask(span, sliding_window, query)
        if fused:
            return _prompt(query, key, value, mask, scale), None
        return _prompt_in_blocks(query, key, value, mask, scale, softcap, s_aux), None
    if fused and span.lengths is not None and _has_kernel(query, value):
        query, key, value = query.transpose(1, 2), key.transpose(1, 2), value.transpose(1, 2)
        return decode_attention(query, key, value, span.lengths, scale, sliding_window or 0), None
    low = max(0, span.start + 1 - sliding_window) if sliding_window and query.device.type == "cpu" else 0
    key, value = key[:, :, low:], value[:, :, low:]
    bias = _bias(span, sliding_window, low, query)
    attend, more = (_tokens, ()) if fused else (_weigh, (softcap, s_aux))
    out = attend(query, key, value, bias, scale, *more)
    if query.shape[2] > 1 and query.device.type == "cpu" and bool(out.sum().isnan()):
        out = _alone(query, key, value, bias, scale, *more, attend=attend)
    return out, None


ALL_ATTENTION_FUNCTIONS.register(NAME, attention)


@contextmanager
def attending(configs: list[Any], span: PassSpan) -> Iterator[None]:
    """Modules of these configurations attend by ``span`` inside the block; each is as it was after the last one.

    Modules may share a configuration, and blocks of several threads overlap.
    """
    token = _span.set(span)
    try:
        with ExitStack() as stack:
            for config in configs:
                _take(config)
                stack.callback(_give_back, config)
            yield
    finally:
        _span.reset(token)


def _take(config: Any) -> None:
    with _TAKING:
        # The property's setter would spread a value over a configuration's parts, which may differ.
        _, before, users = _taken.get(id(config), (config, config._attn_implementation_internal, 0))
        _taken[id(config)] = config, before, users + 1
        config._attn_implementation_internal = NAME


def _give_back(config: Any) -> None:
    with _TAKING:
        _, before, users = _taken.pop(id(config))
        if users > 1:
            _taken[id(config)] = config, before, users - 1
        else:
            config._attn_implementation_internal = before


def attention_configs(model: nn.Module) -> list[Any]:
    """The distinct configurations that modules of ``model`` take their attention implementation from."""
    found = {id(config): config for part in model.modules() if (config := getattr(part, "config", None)) is not None}
    return [config for config in found.values() if hasattr(config, "_attn_implementation_internal")]


def _check(module: nn.Module, mask: Tensor | None, window: int | None, others: dict[str, Any]) -> None:
    """Refuse what is not plain causal attention, and windows that only the model's own mask would have known."""
    causal = others.pop("is_causal", None)
    if mask is not None or not (getattr(module, "is_causal", True) if causal is None else causal):
        raise DoesNotTakePart("attention has a mask of its own")
    unknown = [name for name, value in others.items() if name not in IGNORED and value is not None]
    if unknown:
        raise DoesNotTakePart(f"attention takes {', '.join(unknown)}")
    config = getattr(module, "config", None)
    types = getattr(config, "layer_types", None)
    if types:
        windowed = types[getattr(module, "layer_idx", 0)] == "sliding_attention"
    else:
        windowed = getattr(config, "sliding_window", None) is not None
    if windowed != bool(window):
        raise DoesNotTakePart("the layer's sliding window is not what its configuration says")


def _mask(span: PassSpan, window: int | None, query: Tensor) -> Tensor | None:
    """[T, stop] bool, what each of a prompt's tokens sees; None where that is all of them up to its own."""
    if span.start == 0 and (not window or window >= span.stop):
        return None
    if window not in span.masks:
        keys = torch.arange(span.stop, device=query.device)
        queries = torch.arange(span.start, span.stop, device=query.device)[:, None]
        seen = keys <= queries
        span.masks[window] = seen & (keys > queries - window) if window else seen
    return span.masks[window]


def _bias(span: PassSpan, window: int | None, low: int, query: Tensor) -> Tensor:
    """[n, Q, stop − low], 0 where a new token sees and −inf elsewhere; the same for all layers of a pass."""
    if window not in span.masks:
        assert span.positions is not None
        keys = torch.arange(low, span.stop, device=query.device)
        last = span.positions[..., None]
        hidden = keys > last
        if window:
            hidden |= keys <= last - window
        span.masks[window] = torch.zeros_like(hidden, dtype=query.dtype).masked_fill_(hidden, -torch.inf)
    return span.masks[window]


def _has_kernel(query: Tensor, value: Tensor) -> bool:
    on_device = query.device.type == "cuda" or INTERPRETED
    return on_device and query.dtype == value.dtype != torch.float64 and query.shape[-1] == value.shape[-1] <= 256


def _tokens(query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float) -> Tensor:
    """Q new tokens per row. Query heads of a key head stand as tokens of one call, which then reads each key once."""
    rows, heads, Q, width = query.shape
    folded = query.reshape(rows, key.shape[1], -1, width)
    share = folded.shape[2] // Q
    seen = bias[:, None, None].expand(rows, 1, share, *bias.shape[1:]).reshape(rows, 1, share * Q, -1)
    out = F.scaled_dot_product_attention(folded, key, value, attn_mask=seen, scale=scale)
    return out.view(rows, heads, Q, -1).transpose(1, 2)


def _alone(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, *more: Any, attend: Callable[..., Tensor]
) -> Tensor:
    """``attend`` for each of Q new tokens by itself, on nothing but what it sees: a weight of 0 does not stop NaN."""
    parts = []
    for token in range(query.shape[2]):
        own = bias[:, token : token + 1]
        dead = (own == -torch.inf).transpose(1, 2)[:, None]
        finite = key.masked_fill(dead, 0), value.masked_fill(dead, 0)
        parts.append(attend(query[:, :, token : token + 1], *finite, own, scale, *more))
    return torch.cat(parts, 1)


def _weigh(
    query: Tensor, key: Tensor, value: Tensor, bias: Tensor, scale: float, softcap: float | None, sinks: Tensor | None
) -> Tensor:
    """softmax(scale · query keyᵀ + bias) value as two products -> [n, T, H, E]; bias [n or 1, T, S].

    Query heads of one key head are rows of one product, so a step reads each key and value once.
    """
    rows, heads, tokens, _ = query.shape
    groups = key.shape[1]
    share = heads // groups
    folded = query.reshape(rows * groups, share * tokens, -1)
    bias = bias[:, None, None].expand(rows, groups, share, tokens, -1).reshape(rows * groups, share * tokens, -1)
    transposed = key.flatten(0, 1).transpose(1, 2)
    if softcap is None:
        scores = torch.baddbmm(bias, folded, transposed, alpha=scale)
    else:
        scores = torch.tanh(torch.bmm(folded, transposed) * (scale / softcap)) * softcap + bias
    if sinks is not None:
        column = sinks.to(scores.dtype).view(1, groups, share, 1).expand(rows, groups, share, tokens)
        weights = torch.cat([scores, column.reshape(*scores.shape[:2], 1)], dim=-1).softmax(-1)[..., :-1]
    else:
        weights = scores.softmax(-1)
    out = torch.bmm(weights, value.flatten(0, 1))
    return out.view(rows, heads, tokens, -1).transpose(1, 2)


def _prompt(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float) -> Tensor:
    share = query.shape[1] // key.shape[1]
    grouped = share > 1
    if grouped and query.device.type != "cpu" and (mask is not None or key.shape[-1] != value.shape[-1]):
        # Grouped heads would go without the fused kernels here.
        key, value = key.repeat_interleave(share, dim=1), value.repeat_interleave(share, dim=1)
        grouped = False
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    ).transpose(1, 2)
    if query.device.type != "cpu" or not may_hide_nan(out):
        return out
    return with_nan(out, query.transpose(1, 2), key[:, :, -query.shape[2] :].transpose(1, 2))


def _prompt_in_blocks(
    query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None, scale: float, softcap: float | None,
    sinks: Tensor | None,
) -> Tensor:  # fmt: skip
    """``_weigh`` over a prompt, some of its tokens at a time, each block on the keys up to its last token."""
    tokens, stop = query.shape[2], key.shape[2]
    first = stop - tokens
    parts = []
    for start in range(0, tokens, QUERY_BLOCK):
        end = min(start + QUERY_BLOCK, tokens)
        seen = torch.ones(end - start, first + end, dtype=torch.bool, device=query.device).tril(first + start)
        if mask is not None:
            seen &= mask[start:end, : first + end]
        bias = torch.zeros_like(seen, dtype=query.dtype).masked_fill_(~seen, -torch.inf)
        live = slice(0, first + end)
        parts.append(
            _weigh(query[:, :, start:end], key[:, :, live], value[:, :, live], bias[None], scale, softcap, sinks)
        )
    return torch.cat(parts, dim=1)
