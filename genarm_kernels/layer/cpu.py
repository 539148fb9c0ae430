"""The element-wise steps on a CPU, in as few operations of torch as they take: at few rows an operation costs 1–3 µs.

decode_attention is here too: the G query heads of a key head are the query tokens of one attention call.

With LoRA the expand comes in float32 (lora.expand_few), and the rest of the step stays in it.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.functional import scaled_dot_product_attention

from genarm_kernels.layer.lora import Lora, expand_few


def add_rms_norm(z: Tensor | None, residual: Tensor, weight: Tensor, eps: float, lora: Lora | None) -> Tensor:
    if z is not None:
        residual.add_(z if lora is None else expand_few(z, lora))
    # With a weight of its own rms_norm would round once, after the product.
    normed = F.rms_norm(residual, residual.shape[1:], None, eps)
    return normed.mul_(weight) if normed.dtype == weight.dtype else (normed * weight).to(weight.dtype)


def swiglu(z: Tensor, lora: Lora | None) -> Tensor:
    total = z if lora is None else expand_few(z, lora)
    gate, up = total.chunk(2, 1)
    return F.silu(gate).mul_(up).to(z.dtype)


def rotary_store(
    z: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, key_cache: Tensor, value_cache: Tensor, heads: int,
    lora: Lora | None, rows: Tensor | None, q_norm: Tensor | None, k_norm: Tensor | None, eps: float,
    starts: Tensor | None = None,
) -> Tensor:  # fmt: skip
    H_kv, D = key_cache.shape[2:]
    R, rotated = z.shape[0], heads + H_kv
    total = z if lora is None else expand_few(z, lora)
    value = total[:, rotated * D :].view(R, H_kv, D).to(z.dtype)
    x = total[:, : rotated * D].float().view(R, rotated, D)
    if q_norm is not None and k_norm is not None:
        x = F.rms_norm(x, (D,), None, eps)
        x[:, :heads].mul_(q_norm)
        x[:, heads:].mul_(k_norm)
    where = _all_rows(R, z.device) if rows is None else rows
    places, T = positions, key_cache.shape[1]
    if starts is not None:
        places = positions - starts.index_select(0, where)
        places = torch.where(places < 0, T, places)  # which is out of range, where −1 would be the last place
    try:
        x = _rotate(x, cos, sin, positions).to(z.dtype)
        key_cache.index_put_((where, places), x[:, heads:])
        value_cache.index_put_((where, places), value)
    except IndexError:
        # A token out of the cache's range, seen for nothing by the operations that read the angles and store.
        keep = (positions >= 0) & (positions < len(cos)) & (places < T)
        x = _rotate(x, cos, sin, torch.where(keep, positions, 0)).to(z.dtype)
        kept = (where[keep], places[keep])
        key_cache.index_put_(kept, x[keep, heads:])
        value_cache.index_put_(kept, value[keep])
    return x[:, :heads]


def _rotate(x: Tensor, cos: Tensor, sin: Tensor, positions: Tensor) -> Tensor:
    """x [R, heads, D] float32, each token by the angles of its position."""
    R, heads, D = x.shape
    halves = x.view(R, heads, 2, D // 2)
    c, s = cos.index_select(0, positions), sin.index_select(0, positions)
    signed = torch.stack((-s, s), 1)[:, None]
    return torch.addcmul(halves * c[:, None, None], halves.flip(2), signed).view(R, heads, D)


@lru_cache(maxsize=64)
def _all_rows(R: int, device: torch.device) -> Tensor:
    return torch.arange(R, device=device)


def attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float, window: int, longest: int, even: bool
) -> Tensor:
    """decode_attention of checked arguments; nothing beyond `longest` is read."""
    Q = query.shape[1]
    out = attend(query, keys, values, lengths, scale, window, longest, even)
    if not (even and Q == 1) and bool(out.sum().isnan()):
        # What a token does not see may be NaN, which a weight of 0 does not stop.
        parts = []
        for token in range(Q):
            seen = lengths - (Q - 1 - token)
            live = (torch.arange(keys.shape[1], device=lengths.device) < seen[:, None])[:, :, None, None]
            finite = keys.where(live, 0), values.where(live, 0)
            parts.append(attend(query[:, token : token + 1], *finite, seen, scale, window, longest, False))
        out = torch.cat(parts, 1)
    if not may_hide_nan(out):
        return out
    places = lengths.long()[:, None] + torch.arange(-Q, 0, device=lengths.device)
    own = keys[_all_rows(len(keys), keys.device)[:, None], places.clamp(min=0)]
    return torch.where((places < 0)[:, :, None, None], out, with_nan(out, query, own))  # those see nothing


def may_hide_nan(out: Tensor) -> bool:
    """Whether some token's attention [..., D] is 0: torch's on a CPU gives that where a token's scores are all NaN."""
    return bool((out[..., 0] == 0).any())


def with_nan(out: Tensor, query: Tensor, keys: Tensor) -> Tensor:
    """[n, T, H, E] with NaN where the token's query [n, T, H, D], or its own key [n, T, H_kv, D], has some."""
    bad = keys.isnan().any(-1).repeat_interleave(query.shape[2] // keys.shape[2], -1)
    return out.masked_fill((bad | query.isnan().any(-1))[..., None], torch.nan)


def attend(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float, window: int, longest: int, even: bool
) -> Tensor:
    """The same of caches that hold finite numbers up to `longest`."""
    R, Q, H, D = query.shape
    H_kv = keys.shape[2]
    first = max(longest - Q + 1 - window, 0) if even and window else 0
    k, v = keys.transpose(1, 2)[:, :, first:longest], values.transpose(1, 2)[:, :, first:longest]
    if Q == 1:
        heads = query.reshape(R, H_kv, H // H_kv, D)
    else:
        heads = query.reshape(R, Q, H_kv, H // H_kv, D).transpose(1, 2).reshape(R, H_kv, -1, D)
    seen = None if even and Q == 1 else _seen(lengths, Q, H // H_kv, first, longest, window)
    out = scaled_dot_product_attention(heads, k, v, attn_mask=seen, scale=scale)
    if Q == 1:
        return out.reshape(R, 1, H, D)
    return out.view(R, H_kv, Q, -1, D).transpose(1, 2).reshape(R, Q, H, D)


def _seen(lengths: Tensor, Q: int, G: int, first: int, longest: int, window: int) -> Tensor:
    """[R, 1, Q·G, longest − first], one row for all if Q is 1: whether a query sees a position."""
    at = torch.arange(first, longest, device=lengths.device)
    if Q == 1:
        end = lengths.view(-1, 1, 1, 1)
    else:
        end = lengths.view(-1, 1, 1, 1) + torch.arange(1 - Q, 1, device=lengths.device).repeat_interleave(G)[:, None]
    seen = at < end
    return seen & (at >= end - window) if window else seen
