"""The element-wise steps on a CPU, in as few operations of torch as they take: at few rows an operation costs 1–3 µs.

With LoRA the expand comes in float32 (lora.expand_few), and the step goes on in it.
"""

from functools import lru_cache

import torch
from torch import Tensor
from torch.nn import functional as F

from genarm_kernels.lora import Lora, expand_few


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
    try:
        x = _rotate(x, cos, sin, positions).to(z.dtype)
        key_cache.index_put_((where, positions), x[:, heads:])
        value_cache.index_put_((where, positions), value)
    except IndexError:
        # A token out of the cache's range, seen for nothing by the operations that read the angles and store.
        keep = (positions >= 0) & (positions < key_cache.shape[1])
        x = _rotate(x, cos, sin, torch.where(keep, positions, 0)).to(z.dtype)
        kept = (where[keep], positions[keep])
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
