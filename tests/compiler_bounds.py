"""Where a bound on machine code is another one under another compiler, and why.

The tests of machine code state what holds under the triton of constraints.txt. OTHERS is the only place where another
version may take more; a few bytes that a lane spills into L1 cost less than keeping programs from an SM would.
"""

from __future__ import annotations

from typing import NamedTuple

import triton

TRITON = ".".join(triton.__version__.split(".")[:2])


class Other(NamedTuple):
    """Under this triton a kernel, as its test names it, may have so much of a figure, on these devices."""

    triton: str
    kernel: str
    figure: str  # registers, spilled (bytes of a lane's stack) or instructions
    most: int
    why: str
    capabilities: tuple[int, ...] = (80, 90, 100)


OTHERS: tuple[Other, ...] = (
    # Logits of two bytes. A limit of 64 registers spills more on sm_80 and takes a tenth more instructions on sm_90.
    Other("3.6", "finish_rows_kernel", "registers", 128, "an SM has two programs instead of three"),
    Other("3.6", "finish_rows_kernel", "spilled", 8, "left alone, ptxas takes 80 registers and spills the rest", (80,)),
    # 16 rows of 4,096. With a limit of 128 registers these spill nothing, but other widths would.
    Other(
        "3.7",
        "linear_kernel, normed, 16 × 32",
        "spilled",
        8,
        "a pointer, kept from before the loop to behind it",
        (90,),
    ),
    Other("3.7", "linear_kernel, normed, 16 × 64", "spilled", 8, "the same", (100,)),
    # Eight models in float32 with a filter, log-probs and all else. Any limit of registers spills ten times as much.
    Other("3.6", "group, M=8, fp32, all, wide", "spilled", 8, "left alone, ptxas takes 128 and spills the rest", (90,)),
)


def most(kernel: str, figure: str, usual: int, capability: int = 90, version: str = TRITON) -> int:
    """The bound on this figure under the compiler at hand."""
    found = [
        other.most
        for other in OTHERS
        if (other.triton, other.kernel, other.figure) == (version, kernel, figure) and capability in other.capabilities
    ]
    return max([usual, *found])
