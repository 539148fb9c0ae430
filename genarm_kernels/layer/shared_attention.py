"""Attention of the newest tokens where rows begin with prefixes held once: a prefix is read once for all of its rows.

    out[r, q, h] = Σ_t p_t · v_t        over the positions t of the row's prefix, then of its own cache
    p = softmax over visible t of scale · ⟨query[r, q, h], k_t⟩

what decode_attention gives for the two one behind the other.
"""

import torch
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer import cpu_shared
from genarm_kernels.layer.attention import decode_attention, launch
from genarm_kernels.layer.attention_arguments import check_shared
from genarm_kernels.layer.prefixes import Prefixes
from genarm_kernels.layer.sharing import Sharing


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
    *,
    longest: int | None = None,
    arrivals: Tensor | None = None,
) -> Tensor:
    """Attention of each row's last Q tokens over its prefix and its own cache behind it, causal among the Q.

    Cascade attention after Juravsky et al., "Hydragen" (2024), with the parts merged by their log-sum-exp: on a GPU two
    launches, one over prefixes and that of decode_attention. A row's result does not depend on the other rows nor on
    who shares its prefix, in float32 and on a GPU not in its last bit; NaN in a prefix reaches no row that does not see
    it, but on a GPU may reach a row's earlier tokens from what its later ones see. No gradient.

    Args:
        query: [R, Q, H, D], Q ≤ 8, D ≤ 256; bfloat16, float16 or float32, last dimension contiguous.
        key_cache: [R, T, H_kv, D] of query's dtype, what a row holds behind its prefix: position t ≥ sharing.lengths
            at place t − sharing.lengths. H a multiple of H_kv; any strides but the last, which is 1.
        value_cache: the same.
        lengths: [R] int32, the tokens of each row, those of its prefix and its Q included. Query q sees positions
            < lengths − Q + q + 1. A length above what the row's prefix and T places hold is read as that.
        prefix_keys: [P, T_p, H_kv, D], each prefix's positions from 0 on; any strides but the last, which is 1.
        prefix_values: the same.
        sharing: which prefix a row begins with and how much of it it sees, with `order` and `first` as `regroup`
            writes them.
        scale: of the scores, D^−0.5 by default.
        window: 0, or how many positions up to its own a query sees.
        longest: a bound on lengths that the host knows, 1 to T_p + T: on a CPU nothing beyond it is touched.
        arrivals: `new_arrivals` of as many rows and heads at least, as for decode_attention.

    Returns:
        [R, Q, H, D] in query's dtype, 0 for a query that sees nothing.

    Raises:
        TypeError: for tensors of dtypes that do not fit.
        ValueError: for shapes, strides or devices that do not fit, a negative window, or too few arrivals.
    """
    caches = key_cache, value_cache, lengths, prefix_keys, prefix_values
    longest = check_shared(query, *caches, sharing, window, longest, arrivals)
    scale = query.shape[3] ** -0.5 if scale is None else scale
    if query.numel() == 0 or longest == 0:
        return torch.zeros_like(query, memory_format=torch.contiguous_format)
    if prefix_keys.shape[0] * prefix_keys.shape[1] == 0:
        return decode_attention(
            query, key_cache, value_cache, lengths, scale, window, longest=longest, arrivals=arrivals
        )
    if query.is_cuda or INTERPRETED:
        with on_device(query.device):
            prefixes = Prefixes(prefix_keys, prefix_values, sharing)
            return launch(query, key_cache, value_cache, lengths, scale, window, arrivals, prefixes)
    return cpu_shared.attention(query, *caches, sharing, scale, window, longest)
