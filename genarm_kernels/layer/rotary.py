"""The step behind qkv_proj: LoRA expand, the heads' own norms, rotary embedding and the store to the cache.

    x = z + B h                                               q, k of Qwen3 then x / √(mean(x²) + ε) · weight, by head
    y[:D/2] = x[:D/2]·cos − x[D/2:]·sin                       q and k; y of q is the result, y of k goes to the cache
    y[D/2:] = x[D/2:]·cos + x[:D/2]·sin                       v goes there as it is

A row reads and writes (H + 2·H_kv)·D elements and reads D angles; with an adapter also its B, rank times as many.
Program (row, heads): about 512 columns of q, k or v as two halves of 256, so that a rotation needs no other lane's
values. Everything is float32 up to the one rounding at the end.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer import cpu
from genarm_kernels.layer.lora import Lora, check_columns, expand_columns
from genarm_kernels.layer.norm import at, sum_neighbours, sum_two_squares

HALF_COLUMNS = 256
STRIDES = [
    "z_stride", "table_stride", "T", "angle_count", "key_stride_0", "key_stride_1", "key_stride_2",
    "value_stride_0", "value_stride_1", "value_stride_2",
]  # fmt: skip


@triton.jit
def load_half(
    z, up, adapter, kind, start, columns, mask,
    N: tl.constexpr, RANK: tl.constexpr, ALIGNED: tl.constexpr,
):  # fmt: skip
    """One half of some heads with its expand, float32; columns count from `start`."""
    value = tl.load(at(z + start, columns, ALIGNED), mask=mask, other=0.0).to(tl.float32)
    if RANK > 0:
        value += expand_columns(z, up, adapter, kind, start + columns, mask, N, 3, RANK)
    return value


@triton.jit
def head_scale(first, second, eps, D: tl.constexpr, HALF_BLOCK: tl.constexpr):
    """1 / √(mean(x²) + ε) of every head, at each of its places."""
    squares = sum_neighbours(sum_two_squares(first, second), 3)
    HEADS: tl.constexpr = first.shape[0] // HALF_BLOCK
    scale = tl.rsqrt(tl.sum(tl.reshape(squares, [HEADS, HALF_BLOCK // 8]), 1) / D + eps)
    return tl.reshape(tl.broadcast_to(scale[:, None], [HEADS, HALF_BLOCK]), [HEADS * HALF_BLOCK])


@triton.jit(do_not_specialize=STRIDES, do_not_specialize_on_alignment=["positions", "rows", "adapters", "starts"])
def rotary_store_kernel(
    z, z_stride, cos, sin, table_stride, positions, rows, query,
    key_cache, key_stride_0, key_stride_1, key_stride_2, value_cache, value_stride_0, value_stride_1, value_stride_2,
    q_norm, k_norm, up, adapters, eps, T, starts, angle_count,
    H: tl.constexpr, H_KV: tl.constexpr, D: tl.constexpr, RANK: tl.constexpr, NORM: tl.constexpr, ROWS: tl.constexpr,
    WIDE: tl.constexpr, HALF_BLOCK: tl.constexpr, HEADS: tl.constexpr,
):  # fmt: skip
    """Program (row, heads): blocks of q's heads first, then k's, then v's. RANK 0 is no LoRA, and without
    `starts` a token is stored at its position."""
    HALF: tl.constexpr = D // 2
    ALIGNED: tl.constexpr = HALF_BLOCK if WIDE else 1
    Q_BLOCKS: tl.constexpr = (H + HEADS - 1) // HEADS
    KV_BLOCKS: tl.constexpr = (H_KV + HEADS - 1) // HEADS
    row = tl.program_id(0).to(tl.int64)
    block = tl.program_id(1)
    kind = 0
    start = 0
    heads = H
    if block >= Q_BLOCKS:
        kind = 1
        start = H * D
        heads = H_KV
        block -= Q_BLOCKS
        if block >= KV_BLOCKS:
            kind = 2
            start = (H + H_KV) * D
            block -= KV_BLOCKS
    place = tl.arange(0, HEADS * HALF_BLOCK)
    head = block * HEADS + place // HALF_BLOCK
    pair = place % HALF_BLOCK
    mask = (head < heads) & (pair < HALF)
    columns = head * D + pair
    z += row * z_stride
    position = tl.load(positions + row).to(tl.int64)
    adapter = -1
    if RANK > 0:
        adapter = tl.load(adapters + row)
    first = load_half(z, up, adapter, kind, start, columns, mask, H * D + 2 * H_KV * D, RANK, ALIGNED)
    second = load_half(z, up, adapter, kind, start + HALF, columns, mask, H * D + 2 * H_KV * D, RANK, ALIGNED)
    stored = position
    inside = (position >= 0) & (position < T)
    if starts is not None:
        stored = position - tl.load(starts + (tl.load(rows + row).to(tl.int64) if ROWS else row))
        inside = (stored >= 0) & (stored < T) & (position >= 0) & (position < angle_count)
    if kind < 2:
        if NORM:
            weight = q_norm
            if kind == 1:
                weight = k_norm
            scale = head_scale(first, second, eps, D, HALF_BLOCK)
            first *= scale * tl.load(weight + pair, mask=mask, other=0.0).to(tl.float32)
            second *= scale * tl.load(weight + HALF + pair, mask=mask, other=0.0).to(tl.float32)
        angles = tl.where(inside, position, 0) * table_stride
        c = tl.load(at(cos + angles, pair, ALIGNED), mask=mask, other=0.0)
        s = tl.load(at(sin + angles, pair, ALIGNED), mask=mask, other=0.0)
        # Which product is rounded before the sum is not left to the compiler, which chooses by alignment.
        first, second = tl.fma(first, c, second * (s * -1.0)), tl.fma(second, c, first * s)
    if kind == 0:
        store_halves(query + row * (H * D), columns, first, second, mask, HALF, ALIGNED)
    elif inside:
        cache_row = row
        if ROWS:
            cache_row = tl.load(rows + row).to(tl.int64)
        if kind == 1:
            target = key_cache + cache_row * key_stride_0 + stored * key_stride_1
            store_halves(target, head * key_stride_2 + pair, first, second, mask, HALF, ALIGNED)
        else:
            target = value_cache + cache_row * value_stride_0 + stored * value_stride_1
            store_halves(target, head * value_stride_2 + pair, first, second, mask, HALF, ALIGNED)


@triton.jit
def store_halves(target, columns, first, second, mask, HALF: tl.constexpr, ALIGNED: tl.constexpr):
    tl.store(at(target, columns, ALIGNED), first.to(target.dtype.element_ty), mask=mask)
    tl.store(at(target + HALF, columns, ALIGNED), second.to(target.dtype.element_ty), mask=mask)


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
) -> Tensor:
    """Queries, rotated; keys, rotated, and values to their places in the cache -> query [R, H, D].

    Args:
        z: [R, (H + 2·H_kv)·D + shrinks] = q | k | v of R tokens, any row stride.
        cos, sin: [≥ T_max, D/2] float32, the angles of every position, scaling included.
        positions: [R] int32 or int64. A token whose place is not in 0 … T_max − 1 is stored nowhere, and its query is
            rotated as at position 0.
        key_cache, value_cache: [C, T_max, H_kv, D] of z's dtype, any strides but the last, which is 1. Written at
            [rows[r], positions[r]]; no two tokens of a call may have the same place in one row.
        heads: H, of the query.
        lora: the adapters on z's layer, with widths (H·D, H_kv·D, H_kv·D).
        rows: [R] int32 or int64, each token's row of the cache; None is row r for token r.
        q_norm, k_norm: [D], weights of an RMSNorm of every head of q and of k before the rotation (Qwen3), eps theirs.
        starts: [C] int32, the position that the first place of each of the cache's rows is for: what comes before it
            is held elsewhere. A token is rotated by its position and stored at positions[r] − starts[rows[r]], and one
            whose position has no angles is as one without a place. None is 0 for every row.

    Raises:
        ValueError: shapes, strides, dtypes or devices that do not fit together.

    Source: Su et al. 2021, RoFormer, with Hugging Face's pairs (i, i + D/2).
    """
    _check(z, cos, sin, positions, key_cache, value_cache, heads, lora, rows, q_norm, k_norm, starts)
    weights = (q_norm, k_norm, eps)
    if not (z.is_cuda or INTERPRETED):
        return cpu.rotary_store(z, cos, sin, positions, key_cache, value_cache, heads, lora, rows, *weights, starts)
    query = z.new_empty(z.shape[0], heads, key_cache.shape[3])
    if query.numel():
        with on_device(z.device):
            _launch(z, cos, sin, positions, key_cache, value_cache, query, lora, rows, *weights, starts)
    return query


def _check(
    z: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, key_cache: Tensor, value_cache: Tensor, heads: int,
    lora: Lora | None, rows: Tensor | None, q_norm: Tensor | None, k_norm: Tensor | None, starts: Tensor | None,
) -> None:  # fmt: skip
    if key_cache.ndim != 4 or key_cache.shape != value_cache.shape:
        raise ValueError(
            f"caches are {list(key_cache.shape)} and {list(value_cache.shape)}: expected both [C, T_max, H_kv, D]"
        )
    C, T, H_kv, D = key_cache.shape
    if D % 2:
        raise ValueError(f"heads of {D} columns cannot be rotated in pairs: expected an even D")
    check_columns(z, (heads * D, H_kv * D, H_kv * D), lora)
    for name, cache in (("key_cache", key_cache), ("value_cache", value_cache)):
        if cache.dtype != z.dtype or cache.device != z.device or cache.stride(3) != 1:
            raise ValueError(
                f"{name} is {cache.dtype} on {cache.device}, strides {cache.stride()}: expected {z.dtype} on "
                f"{z.device}, a head's columns next to each other"
            )
    if cos.shape != sin.shape or cos.ndim != 2 or cos.shape[0] < T or cos.shape[1] * 2 != D:
        raise ValueError(
            f"cos is {list(cos.shape)} and sin {list(sin.shape)}: expected both [{T}, {D // 2}], one row per position"
        )
    if cos.dtype != torch.float32 or sin.dtype != torch.float32 or cos.stride() != sin.stride() or cos.stride(1) != 1:
        raise ValueError(f"cos is {cos.dtype} and sin {sin.dtype}: expected float32, contiguous")
    if rows is None and z.shape[0] > C:
        raise ValueError(f"z has {z.shape[0]} tokens and the cache {C} rows: pass rows, the cache's row of each token")
    for name, index in (("positions", positions), ("rows", rows)):
        if index is not None and (index.shape != z.shape[:1] or index.dtype not in (torch.int32, torch.int64)):
            raise ValueError(f"{name} is {index.dtype} {list(index.shape)}: expected int32 or int64 [{z.shape[0]}]")
    if starts is not None and (starts.shape != (C,) or starts.dtype != torch.int32 or not starts.is_contiguous()):
        raise ValueError(
            f"starts is {starts.dtype} {list(starts.shape)}: expected contiguous int32 [{C}], one per row of the cache"
        )
    if (q_norm is None) != (k_norm is None):
        raise ValueError("one of q_norm and k_norm is None: pass both or neither")
    for weight in (q_norm, k_norm):
        if weight is not None and (weight.shape != (D,) or not weight.is_contiguous()):
            raise ValueError(f"q_norm or k_norm is {list(weight.shape)}: expected [{D}], contiguous")


def _launch(
    z: Tensor, cos: Tensor, sin: Tensor, positions: Tensor, key_cache: Tensor, value_cache: Tensor, query: Tensor,
    lora: Lora | None, rows: Tensor | None, q_norm: Tensor | None, k_norm: Tensor | None, eps: float,
    starts: Tensor | None,
) -> None:  # fmt: skip
    R, H, D = query.shape
    H_kv = key_cache.shape[2]
    half = max(triton.next_power_of_2(D // 2), 8)
    block = max(1, HALF_COLUMNS // half)
    launch: Any = rotary_store_kernel[(R, triton.cdiv(H, block) + 2 * triton.cdiv(H_kv, block))]
    launch(
        z,
        z.stride(0),
        cos,
        sin,
        cos.stride(0),
        positions,
        positions if rows is None else rows,
        query,
        key_cache,
        *key_cache.stride()[:3],
        value_cache,
        *value_cache.stride()[:3],
        cos if q_norm is None else q_norm,
        cos if k_norm is None else k_norm,
        query if lora is None else lora.up,
        positions if lora is None else lora.adapters,
        eps,
        key_cache.shape[1],
        starts,
        None if starts is None else cos.shape[0],
        H=H,
        H_KV=H_kv,
        D=D,
        RANK=0 if lora is None else lora.rank,
        NORM=q_norm is not None,
        ROWS=rows is not None,
        WIDE=_starts_halves_at_16_bytes(z, D // 2, cos, sin, key_cache, value_cache),
        HALF_BLOCK=half,
        HEADS=block,
        num_warps=1 if lora is None else 4,
        num_stages=1,
    )


def _starts_halves_at_16_bytes(z: Tensor, half: int, *tensors: Tensor) -> bool:
    """Whether every half of a head does, in z's rows and wherever else, so that wide loads and stores may be taken."""
    return (half * z.element_size()) % 16 == 0 and all(
        t.data_ptr() % 16 == 0 and all(stride * t.element_size() % 16 == 0 for stride in t.stride()[:-1])
        for t in (z, *tensors)
    )
