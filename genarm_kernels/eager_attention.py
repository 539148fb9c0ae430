"""decode_attention in torch operations: the G query heads of a key head are the query tokens of one attention call.

So a key head's keys and values are read once, and one token a row of a length that the host knows needs no mask. Two
batched matmuls take as long in float32, and two to three times as long in bfloat16 (docs/kernels.md).
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def eager_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float, window: int, longest: int, even: bool
) -> Tensor:
    """decode_attention of checked arguments; nothing beyond `longest` is read."""
    out = attend(query, keys, values, lengths, scale, window, longest, even)
    if even or not bool(out.sum().isnan()):
        return out
    # What lies behind a row's length may be NaN, which a weight of 0 does not stop.
    live = (torch.arange(keys.shape[1], device=lengths.device) < lengths[:, None])[:, :, None, None]
    return attend(query, keys.where(live, 0), values.where(live, 0), lengths, scale, window, longest, even)


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
