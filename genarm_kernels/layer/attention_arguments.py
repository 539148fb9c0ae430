"""What decode_attention and shared_attention take: checked without a look at what tensors hold."""

import torch
from torch import Tensor

from genarm_kernels.layer.sharing import Sharing

MAX_QUERIES = 8
MAX_HEAD_DIM = 256
SMALLEST_TILE = 16  # of the queries of a key head


def check(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    window: int = 0,
    longest: int | None = None,
    even: bool = False,
    arrivals: Tensor | None = None,
) -> int:
    """Refuse what decode_attention does not take -> the bound on lengths, T where none is given."""
    if query.ndim != 4 or key_cache.ndim != 4 or key_cache.shape != value_cache.shape:
        raise ValueError(
            f"query {list(query.shape)}, key_cache {list(key_cache.shape)}, value_cache {list(value_cache.shape)}: "
            "expected [R, Q, H, D] and twice the same [R, T, H_kv, D]"
        )
    R, Q, H, D = query.shape
    T, H_kv = key_cache.shape[1:3]
    if key_cache.shape[0] != R or key_cache.shape[3] != D or H_kv == 0 or H % H_kv:
        raise ValueError(
            f"query {list(query.shape)} and caches {list(key_cache.shape)} do not fit: expected the same R and D, "
            "and H a multiple of H_kv"
        )
    if Q > MAX_QUERIES or D > MAX_HEAD_DIM:
        raise ValueError(
            f"query has {Q} tokens a row and heads of {D}: at most {MAX_QUERIES} and {MAX_HEAD_DIM}; prompts go "
            "through prefill_attention"
        )
    if query.dtype not in (torch.bfloat16, torch.float16, torch.float32):
        raise TypeError(f"query is {query.dtype}: expected bfloat16, float16 or float32; convert it")
    if key_cache.dtype != query.dtype or value_cache.dtype != query.dtype:
        raise TypeError(f"caches are {key_cache.dtype} and {value_cache.dtype}: expected query's {query.dtype}")
    if D > 1 and (query.stride(3) != 1 or key_cache.stride(3) != 1 or value_cache.stride(3) != 1):
        raise ValueError("the last dimension of query and caches must be contiguous: call .contiguous() on it")
    if lengths.dtype != torch.int32 or lengths.shape != (R,) or (R > 1 and lengths.stride(0) != 1):
        raise ValueError(
            f"lengths is {lengths.dtype} {list(lengths.shape)}: expected contiguous int32 [{R}], cached tokens per row"
        )
    if not query.device == key_cache.device == value_cache.device == lengths.device:
        raise ValueError(
            f"query is on {query.device}, caches on {key_cache.device} and {value_cache.device}, lengths on "
            f"{lengths.device}: move them to one device"
        )
    if window < 0:
        raise ValueError(f"window is {window}: expected 0 for all positions, or how many a query sees")
    if longest is not None and not 0 < longest <= T:
        raise ValueError(f"longest is {longest}: expected 1 to {T}, the positions that the caches have")
    if even and longest is None:
        raise ValueError("even says that every length equals `longest`: pass longest too")
    if arrivals is not None:
        _check_arrivals(arrivals, arrivals_of(R, H, H_kv), query.device)
    return T if longest is None else longest


def check_shared(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    prefix_keys: Tensor,
    prefix_values: Tensor,
    sharing: Sharing,
    window: int = 0,
    longest: int | None = None,
    arrivals: Tensor | None = None,
) -> int:
    """Refuse what shared_attention does not take -> the bound on lengths, T_p + T where none is given."""
    check(query, key_cache, value_cache, lengths, window, arrivals=arrivals)
    if (
        prefix_keys.ndim != 4
        or prefix_keys.shape != prefix_values.shape
        or prefix_keys.shape[2:] != key_cache.shape[2:]
    ):
        raise ValueError(
            f"prefix_keys {list(prefix_keys.shape)} and prefix_values {list(prefix_values.shape)}: expected twice the "
            f"same [P, T_p, {key_cache.shape[2]}, {key_cache.shape[3]}], heads as the caches have them"
        )
    for name, cache in (("prefix_keys", prefix_keys), ("prefix_values", prefix_values)):
        if cache.dtype != query.dtype:
            raise TypeError(f"{name} is {cache.dtype}: expected query's {query.dtype}")
        if cache.device != query.device or (cache.shape[3] > 1 and cache.stride(3) != 1):
            raise ValueError(
                f"{name} is on {cache.device}, strides {cache.stride()}: expected it on {query.device}, its last "
                "dimension contiguous"
            )
    rows, prefixes = len(query), len(prefix_keys)
    sizes = {"of_row": rows, "lengths": rows, "extents": prefixes, "order": rows, "first": prefixes + 1}
    for name, size in sizes.items():
        one = getattr(sharing, name)
        if one.dtype != torch.int32 or one.shape != (size,) or not one.is_contiguous() or one.device != query.device:
            raise ValueError(
                f"sharing.{name} is {one.dtype} {list(one.shape)} on {one.device}: expected contiguous int32 [{size}] "
                f"on {query.device}, as new_sharing({rows}, {prefixes}, device) makes it"
            )
    most = prefix_keys.shape[1] * (prefixes > 0) + key_cache.shape[1]
    if longest is not None and not 0 < longest <= most:
        raise ValueError(f"longest is {longest}: expected 1 to {most}, the positions that a prefix and a cache have")
    return most if longest is None else longest


def arrivals_of(rows: int, heads: int, kv_heads: int) -> int:
    """The most tiles of all key heads that a call of so many rows has."""
    return rows * kv_heads * -(-MAX_QUERIES * (heads // kv_heads) // SMALLEST_TILE)


def new_arrivals(rows: int, heads: int, kv_heads: int, device: torch.device | str) -> Tensor:
    """What decode_attention counts in: int32 zeros, and zeros again after every call, so that one will do for a
    session's layers and steps, for up to so many rows of 1 to 8 query tokens in any dtype.

    Calls that may run at the same time, as on two streams, take one each.
    """
    return torch.zeros(arrivals_of(rows, heads, kv_heads), dtype=torch.int32, device=device)


def _check_arrivals(arrivals: Tensor, needed: int, device: torch.device) -> None:
    if arrivals.dtype != torch.int32 or arrivals.ndim != 1 or not arrivals.is_contiguous():
        raise ValueError(
            f"arrivals is {arrivals.dtype} {list(arrivals.shape)}, strides {arrivals.stride()}: expected contiguous "
            "int32 zeros [N], as new_arrivals makes them"
        )
    if len(arrivals) < needed:
        raise ValueError(
            f"arrivals has {len(arrivals)} places and the call needs {needed}: make one with new_arrivals for its rows"
        )
    if arrivals.device != device:
        raise ValueError(f"arrivals is on {arrivals.device} and query on {device}: move one of them")
