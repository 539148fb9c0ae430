"""The float64 oracle of decode_attention: one row, token and head at a time."""

import torch
from torch import Tensor


def decode_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    scale: float | None = None,
    window: int = 0,
) -> Tensor:
    """The oracle of genarm_kernels.decode_attention, [R, Q, H, D] in float64."""
    R, Q, H, D = query.shape
    group = H // key_cache.shape[2]
    out = torch.zeros(R, Q, H, D, dtype=torch.float64, device=query.device)
    for r in range(R):
        for q in range(Q):
            last = int(lengths[r]) - Q + q
            first = max(0, last - window + 1) if window else 0
            if last < 0:
                continue
            for h in range(H):
                keys = key_cache[r, first : last + 1, h // group].double()
                scores = keys @ query[r, q, h].double() * (D**-0.5 if scale is None else scale)
                out[r, q, h] = scores.softmax(0) @ value_cache[r, first : last + 1, h // group].double()
    return out
