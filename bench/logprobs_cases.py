"""The grid of the log-probability suite, and the part of it that fits the time of one run on a device."""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product

import torch

MODES = ("forward", "frozen", "trained")
# Products of the head that a mode cannot do without: logits; and d hidden; and d head.
PRODUCTS = {"forward": 1, "frozen": 2, "trained": 3}
WAYS = ("ours", "plain", "compiled", "liger", "liger-sum")
FOCUS = 128256


@dataclass(frozen=True, slots=True)
class Case:
    """One shape in one mode: log p alone, with the gradient of hidden states, and with that of the head too."""

    N: int
    H: int
    V: int
    dtype: torch.dtype
    mode: str
    full: bool

    @property
    def ways(self) -> tuple[str, ...]:
        """What compiles anew for every shape keeps to one vocabulary."""
        return tuple(way for way in WAYS if way != "compiled" or self.V == FOCUS)

    @property
    def name(self) -> str:
        return f"N{self.N}-H{self.H}-V{self.V}-{str(self.dtype).removeprefix('torch.')}-{self.mode}"


def gpu_cases() -> list[Case]:
    return [
        Case(N, 4096, V, torch.bfloat16, mode, full=V == 151936 or (V == 32000 and mode == "forward"))
        for V, N, mode in product((FOCUS, 32000, 151936), (4096, 16384), MODES)
    ]


def cpu_cases() -> list[Case]:
    return [
        Case(N, H, V, dtype, mode, full=H == 1024 or N * V > 2**26)
        for dtype, H, N, V, mode in product(
            (torch.float32, torch.bfloat16), (256, 1024), (512, 2048), (4096, 32000, FOCUS), MODES
        )
    ]
