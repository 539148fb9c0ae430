"""decode_attention in torch operations: the G query heads of a key head are the query tokens of one attention call.

So a key head's keys and values are read once, and no mask is needed for one token a row of a length the host knows.
"""

import torch
from torch import Tensor
from torch.nn.functional import scaled_dot_product_attention


def eager_attention(
    query: Tensor,
    keys: Tensor,
    values: Tensor,
    lengths: Tensor,
    scale: float,
    window: int,
    longest: int,
    even: bool,
) -> Tensor:
    """decode_attention of checked arguments; nothing beyond `longest` is read."""
    R, Q, H, D = query.shape
    H_kv = keys.shape[2]
    first = max(longest - Q + 1 - window, 0) if even and window else 0
    k, v = (cache[:, first:longest].transpose(1, 2) for cache in (keys, values))
    heads = query.reshape(R, Q, H_kv, H // H_kv, D).transpose(1, 2).reshape(R, H_kv, -1, D)
    seen = None
    if not even or Q > 1:
        seen = _seen(lengths, Q, first, longest, window)
        seen = seen[:, None, :, None].expand(-1, -1, -1, H // H_kv, -1).reshape(R, 1, -1, longest - first)
    out = scaled_dot_product_attention(heads, k, v, attn_mask=seen, scale=scale)
    if not even and bool(out.sum().isnan()):
        # What lies behind a row's length may be NaN, which a weight of 0 does not stop.
        live = (torch.arange(first, longest, device=lengths.device) < lengths[:, None])[:, None, :, None]
        k, v = k.where(live, 0), v.where(live, 0)
        out = scaled_dot_product_attention(heads, k, v, attn_mask=seen, scale=scale)
    return out.view(R, H_kv, Q, -1, D).transpose(1, 2).reshape(R, Q, H, D)


def _seen(lengths: Tensor, Q: int, first: int, longest: int, window: int) -> Tensor:
    """[R, Q, longest − first]: whether a query sees a position."""
    place = (lengths[:, None] - Q + torch.arange(Q, device=lengths.device))[..., None]
    at = torch.arange(first, longest, device=lengths.device)
    seen = at <= place
    return seen & (at > place - window) if window else seen
