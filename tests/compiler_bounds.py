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
    # One word, written before the loop and read once per group. A limit of 96 registers spills nothing here, but up to
    # 128 bytes where one model is float32 and there is a bias, and 16 by 3.7.1; more leave an SM 16 programs of 20.
    Other("3.6", "group, M=2, bf16, log-probs, wide", "spilled", 8, "left alone, ptxas takes 96 registers", (90,)),
    # The same. A limit of 128 spills nothing here, but up to 24 bytes with a bias, where nothing spills left alone; 168
    # leave an SM 12 programs instead of 16.
    Other("3.6", "group, M=3, mixed, normalisers, wide", "spilled", 8, "left alone, ptxas takes 128 registers", (90,)),
    # Of limits from 96 to 255 the best spill 40 bytes for seven models, and 72 for eight.
    Other("3.6", "group, M=7, bf16, normalisers, wide", "spilled", 16, "any limit spills more", (90,)),
    Other("3.6", "group, M=8, mixed, normalisers of others, wide", "spilled", 64, "any limit spills more", (90,)),
    # One word, read once per group. Left alone this spills nothing, but with filters or a bias, and with bf16 logits, 8
    # bytes or 16 by both compilers; with a limit of 255 it spills the same.
    Other("3.6", "group, M=8, fp32, log-probs, narrow", "spilled", 8, "no other limit suits all log-probs", (90,)),
    # One word, written and read once. A limit of 96 leaves an SM two programs instead of three, takes 92 registers for
    # two models, which take 40 left alone, and by 3.7.1 8% more instructions on sm_100; 128 spill 8 bytes there.
    Other("3.6", "draw, M=8, normalisers", "spilled", 8, "left alone, ptxas takes 80 registers", (90,)),
    # One word by both. A limit of 104 spills nothing, and leaves an SM 16 programs of 20.
    *(
        Other(version, "group, M=2, bf16, filters, wide", "spilled", 8, "a limit of 96 registers", (80,))
        for version in ("3.6", "3.7")
    ),
    # With a limit of 168 this spills nothing, and an SM has one program instead of two. Left alone it spills nothing by
    # 3.6.0, but 16 bytes by 3.7.1, here and on sm_90.
    Other("3.6", "draw, M=8, all", "spilled", 24, "a limit of 128 registers", (100,)),
    Other("3.7", "draw, M=8, all", "spilled", 8, "the same", (100,)),
    # Words of a split's rows, written before its steps and read behind them; none in the loop over positions. Limits of
    # 96, 128 and 168 registers spill as much in float32 (24 to 40 bytes on sm_90).
    *(
        Other(version, f"prefixes, float32, D={D}", "spilled", most, "any limit spills as much", capabilities)
        for version, most, capabilities in (("3.6", 32, (90, 100)), ("3.7", 32, (90,)), ("3.7", 64, (100,)))
        for D in (64, 128)
    ),
    *(
        Other(version, "prefixes, float16, D=128", "spilled", 8, "five tokens per row, one word", (80, 89))
        for version in ("3.6", "3.7")
    ),
)


def most(kernel: str, figure: str, usual: int, capability: int = 90, version: str = TRITON) -> int:
    """The bound on this figure under the compiler at hand."""
    found = [
        other.most
        for other in OTHERS
        if (other.triton, other.kernel, other.figure) == (version, kernel, figure) and capability in other.capabilities
    ]
    return max([usual, *found])
