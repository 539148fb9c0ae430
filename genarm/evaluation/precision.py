"""What scorers compute in: float32 where it fits, since rounding decides pairs whose two scores are close."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch

from ..models.options import resolve_dtype
from ..models.sizes import memory_there, parameters_of

# Of the memory there, what weights may take; the rest is for a batch's hidden states.
SHARE = 0.7
GIB = 1 << 30


def scoring_dtype(
    dtype: str, device: torch.device, models: Sequence[str], say: Callable[[str], None] = lambda text: None
) -> torch.dtype:
    """The dtype asked for. "auto" is float32; on a GPU where the largest two ``models`` would not fit in it, bfloat16,
    which ``say`` is told.

    A policy that DPO has moved little differs from its base by less than bfloat16 tells apart.
    """
    chosen = resolve_dtype(dtype, device)
    if dtype != "auto" or chosen == torch.float32:
        return chosen
    largest = sorted((parameters_of(name) or 0 for name in models), reverse=True)[:2]
    needed, there = 4 * sum(largest), memory_there(on_cuda=True) or 0
    if needed <= SHARE * there:
        return torch.float32
    say(
        f"scoring in bfloat16: in float32 the weights would take {needed / GIB:.1f} GiB of the GPU's "
        f"{there / GIB:.1f}. Pairs whose scores are close may change places: --dtype float32 and --device cpu is exact"
    )
    return chosen
