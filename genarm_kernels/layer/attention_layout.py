"""How decode_attention is laid out: tiles, splits, programs, stages. Functions of shapes and of the card alone.

Only programs and stages follow the card. Positions per step and splits, which set the order of a row's sums, do not.
"""

from dataclasses import dataclass

import torch
import triton

from genarm_kernels.card import PROGRAM_BYTES, Card

# A split takes one block of positions where a row has at most FINE blocks, two or more above, and a row has at most
# SPLITS of them: 8 key heads at 4k positions are 256 splits of 64 KB for 132 processors.
SPLITS = 64
FINE = 16
STAGES = 3
# Programs that share a row's splits, where there are as many, even if fewer would fill the card: rows of one batch may
# have any lengths, and processors that are done with short ones take over from the long ones.
LEAST_PROGRAMS = 8
REGISTERS = 65536  # of 32 bits, that a processor has


@dataclass(frozen=True, slots=True)
class Layout:
    """How a shape is laid out on programs, the same for every batch, length and card."""

    itemsize: int  # of an element of the cache, in bytes
    width: int  # of a head, padded
    block: int  # positions per step
    queries: int  # of a tile, padded as a matrix product needs them
    tiles: int
    asked: int  # queries that are combined at once
    round: int  # their splits that are on their way at once
    warps: int
    registers: int  # per lane at most


def layout(dtype: torch.dtype, D: int, queries: int) -> Layout:
    """For so many queries per key head: a step loads 16 KB of keys and 16 KB of values, two steps ahead.

    Wide heads, large tiles and float32, which has no tensor cores here and small tiles, take eight warps: nothing
    spills. Tiles of 16 leave a processor three programs, those of eight warps two, in float32 of more than
    eight queries one.
    """
    width = max(16, triton.next_power_of_2(D))
    size, exact = dtype.itemsize * width, dtype == torch.float32
    tile = min(16 if exact else 64, max(16, triton.next_power_of_2(queries)))
    warps = 8 if size >= 512 or tile == 64 or exact else 4
    asked = min(16, triton.next_power_of_2(queries))
    return Layout(
        itemsize=dtype.itemsize,
        width=width,
        block=max(16, min(64, 16384 // size)),
        queries=tile,
        tiles=-(-queries // tile),
        asked=asked,
        # 64 registers per lane.
        round=max(1, min(16, 64 * 32 * warps // (asked * width))),
        warps=warps,
        registers=255 if tile > 16 or (exact and queries > 8) else 168 if warps == 4 else 128,
    )


def most_splits(positions: int, block: int) -> int:
    """The most splits that a row of up to so many live positions has."""
    blocks = -(-positions // block)
    return max(1, min(blocks, FINE), min(-(-blocks // 2), SPLITS))


def shared_bytes(plan: Layout, stages: int, card: Card) -> int:
    """At least the shared memory that a program takes there: keys and values on their way, the queries, their shares
    of a step on the way from one product to the next, what reductions exchange."""
    steps = (stages - 1) * 2 * plan.block * plan.width * plan.itemsize
    asked, shares = (plan.queries * n * plan.itemsize for n in (plan.width, plan.block))
    # From Hopper on the sums of a tile of 64 change hands before they are stored.
    sums = min(32768, plan.queries * plan.width * 4) if plan.queries == 64 and card.capability >= (9, 0) else 0
    return steps + asked + max(shares, sums) + 1024


def stages(plan: Layout, card: Card) -> int:
    """Steps of keys and values in flight, the one that is worked on included: as many as the card has memory for."""
    return STAGES if shared_bytes(plan, STAGES, card) <= card.shared_per_program else STAGES - 1


def programs(plan: Layout, card: Card, tiles: int, splits: int) -> int:
    """How many share the splits of each of so many tiles, all rows' together: so many as fill the card, and at least
    LEAST_PROGRAMS, but not more than there can be splits."""
    shared = shared_bytes(plan, stages(plan, card), card) + PROGRAM_BYTES
    fit = min(card.shared_per_processor // shared, REGISTERS // (32 * plan.warps * plan.registers))
    return min(splits, max(LEAST_PROGRAMS, card.processors * max(1, fit) // tiles))
