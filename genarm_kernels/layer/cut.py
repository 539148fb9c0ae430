"""How a product for few rows is cut: tiles of W, steps in flight, parts of H. By shapes and the card alone.

Bytes in flight. 4.3 TB/s for about 1 µs of latency under load are 4.3 MB, 33 KB for each of an H200's 132 processors;
twice that is the aim. A step copies 32 or 64 rows · 512 bytes = 16 or 32 KB of W to shared memory by 16-byte copies
that wait for nobody, `depth` steps ahead. R ≤ 16: where every processor has one program at most, it is 8 steps ahead,
128 KB; elsewhere it has two, at least 4 · 16 or 2 · 32 KB each, 128 KB. Inputs come on top, ROWS · 512 bytes per step.
So W is not split to fill the chip: half of the processors with 128 KB each, N = 2,048, have 8 MB in flight. Only under
about 40 tiles, 65 on a B200, does a processor's own rate bound the time; then a program takes a part of H, and a second
kernel adds the parts in order. How many parts pay is the card's to say, so there a sum's order is the card's too.
"""

from functools import cache
from typing import NamedTuple

from genarm_kernels.card import DEFAULT, PROGRAM_BYTES, Card

MOST_ROWS = 64
STEP_BYTES = 512  # of a row of W
DEPTH = 8
# From so many tiles of 64 rows of W per processor on a tile has 64: half the inputs' traffic, and still two programs.
TALL = 2
SCALE_BYTES = 256  # of shared memory, in which a norm's sums are exchanged
# Predictions that decide on splits: what one processor can take, what a second kernel costs.
PROCESSOR_BANDWIDTH, SECOND_KERNEL = 110e9, 3e-6
REACHED = 0.9  # of the memory's bandwidth, by a copy


class Configuration(NamedTuple):
    """How a launch is cut. ROWS and BLOCK_N are a tile's, depth the steps in flight, splits the parts of H."""

    ROWS: int
    BLOCK_N: int
    depth: int
    splits: int
    steps: int  # of one part


@cache
def configuration(R: int, N: int, H: int, itemsize: int, card: Card = DEFAULT, normed: bool = False) -> Configuration:
    """How a call is cut: by N, H, the dtype and the card, and by R no more than rounded up, which no sum's order
    depends on. A ``normed`` input takes room for its norm's weight too."""
    ROWS = next(rows for rows in (8, 16, 32, 64) if rows >= R)
    BLOCK_N = 64 if 64 * TALL * card.processors <= N and ROWS <= 32 and itemsize == 2 else 32
    steps = -(-H * itemsize // STEP_BYTES)
    splits = _splits(-(-N // 32), N * H * itemsize, steps, card)
    programs = -(-N // BLOCK_N) * splits
    a_step = (BLOCK_N + ROWS + normed) * STEP_BYTES
    room = card.shared_per_program
    if programs > card.processors:
        room = min(room, card.shared_per_processor // 2 - PROGRAM_BYTES)
    depth = max(1, min(DEPTH, (room - SCALE_BYTES * normed) // a_step))
    part = -(-steps // splits)
    return Configuration(ROWS, BLOCK_N, depth, -(-steps // part), part)


def _splits(tiles: int, size: int, steps: int, card: Card) -> int:
    """Parts of H: several where that is predicted to save more than the kernel that adds them."""
    alone = size / (min(tiles, card.processors) * PROCESSOR_BANDWIDTH)
    together = size / (REACHED * card.bandwidth)
    return max(1, min(card.processors // tiles, -(-steps // 4))) if alone - together > SECOND_KERNEL else 1
