"""Backbones of one step beside each other: parallel branches of a captured graph."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

Branch = Callable[[], list[Tensor]]


def side_by_side(branches: Sequence[Branch], device: torch.device) -> list[list[Tensor]]:
    """Each branch's result. While a graph is captured each has a CUDA stream of its own, joined at the end.

    Elsewhere one follows the other: between streams of a running program the allocator would have to be told of every
    tensor that changes hands, and without a graph the host launches them one by one anyway.
    """
    if len(branches) == 1 or device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        return [branch() for branch in branches]
    main = torch.cuda.current_stream(device)
    sides = _streams(device.index or 0, len(branches) - 1)
    results: list[list[Tensor]] = []
    for branch, side in zip(branches[1:], sides, strict=True):
        side.wait_stream(main)
        with torch.cuda.stream(side):
            results.append(branch())
    first = branches[0]()
    for side in sides:
        main.wait_stream(side)
    return [first, *results]


@lru_cache(maxsize=16)
def _streams(device: int, count: int) -> list[Any]:
    return [torch.cuda.Stream(device) for _ in range(count)]  # type: ignore[no-untyped-call]
