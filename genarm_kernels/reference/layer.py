"""Oracles of a decoder layer's operations in float64: products, attention, and the element-wise steps between them."""

import torch
from torch import Tensor

from genarm_kernels.layer.lora import Lora
from genarm_kernels.layer.sharing import Sharing


def expand(z: Tensor, lora: Lora | None) -> Tensor:
    """z [R, N + shrinks] -> [R, N] float64 with each row's own expand, row by row and target by target."""
    if lora is None:
        return z.double()
    N, rank = lora.up.shape[1], lora.rank
    out = z[:, :N].double()
    for r, adapter in enumerate(lora.adapters.tolist()):
        start = 0
        for target, width in enumerate(lora.widths):
            if adapter >= 0:
                first = N + (adapter * len(lora.widths) + target) * rank
                up = lora.up[adapter, start : start + width].double()
                out[r, start : start + width] += up @ z[r, first : first + rank].double()
            start += width
    return out


def rms_norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    x = x.double()
    return x / (x.square().mean(-1, keepdim=True) + eps).sqrt() * weight.double()


def add_rms_norm(
    z: Tensor | None, residual: Tensor, weight: Tensor, eps: float, lora: Lora | None = None
) -> tuple[Tensor, Tensor]:
    """The sum in float64, not rounded, and its norm; the residual stays as it is."""
    total = residual.double() if z is None else residual.double() + expand(z, lora)
    return total, rms_norm(total, weight, eps)


def swiglu(z: Tensor, lora: Lora | None = None) -> Tensor:
    """silu(gate) · up in float64."""
    gate, up = expand(z, lora).chunk(2, 1)
    return gate / (1 + (-gate).exp()) * up


def rotary_store(
    z: Tensor,
    cos: Tensor,
    sin: Tensor,
    positions: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    heads: int,
    lora: Lora | None = None,
    rows: Tensor | None = None,
    q_norm: Tensor | None = None,
    k_norm: Tensor | None = None,
    eps: float = 1e-6,
    starts: Tensor | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """The query [R, H, D] and both caches as they should be, in float64; the caches given stay as they are."""
    _, T, H_kv, D = key_cache.shape
    q, k, v = expand(z, lora).view(-1, heads + 2 * H_kv, D).tensor_split((heads, heads + H_kv), 1)
    if q_norm is not None and k_norm is not None:
        q, k = rms_norm(q, q_norm, eps), rms_norm(k, k_norm, eps)
    keys, values = key_cache.double(), value_cache.double()
    queries = torch.empty_like(q)
    for r, position in enumerate(positions.tolist()):
        row = r if rows is None else int(rows[r])
        place = position if starts is None else position - int(starts[row])
        inside = 0 <= place < T and 0 <= position < len(cos)
        at = position if inside else 0
        angle_cos, angle_sin = cos[at].double().repeat(2), sin[at].double().repeat(2)
        queries[r] = _rotate(q[r], angle_cos, angle_sin)
        if inside:
            keys[row, place] = _rotate(k[r], angle_cos, angle_sin)
            values[row, place] = v[r]
    return queries, keys, values


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return x * cos + torch.cat((-second, first), -1) * sin


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


def shared_attention(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    sharing: Sharing,
    scale: float | None = None,
    window: int = 0,
) -> Tensor:
    """The oracle of genarm_kernels.shared_attention: each row with its prefix before its own cache, in float64."""
    out = torch.zeros(query.shape, dtype=torch.float64, device=query.device)
    for r in range(len(query)):
        prefix, shared = int(sharing.of_row[r]), int(sharing.lengths[r])
        keys = torch.cat([prefix_keys[prefix, :shared], key_cache[r]])[None]
        values = torch.cat([prefix_values[prefix, :shared], value_cache[r]])[None]
        out[r] = decode_attention(query[r : r + 1], keys, values, lengths[r : r + 1], scale, window)[0]
    return out


def skinny_linear(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    """x @ weightᵀ + bias in float64, [R, N]: not rounded back to x's dtype."""
    y = x.double() @ weight.double().T
    return y if bias is None else y + bias.double()
