"""What decode_attention takes: checked without a look at what tensors hold."""

import torch
from torch import Tensor

MAX_QUERIES = 8
MAX_HEAD_DIM = 256


def check(
    query: Tensor,
    key_cache: Tensor,
    value_cache: Tensor,
    lengths: Tensor,
    window: int = 0,
    longest: int | None = None,
    even: bool = False,
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
    return T if longest is None else longest
