"""What a kernel's launch has to know about the GPU it is for: how many processors, how much shared memory, how fast.

Launchers cut their work by a `Card` alone, so what they choose for a card can be tested without one. How work is cut
follows from it, and on one card a row's bits are the same whatever its batch. From card to card the order of a sum is
the same too, but for a product of few tiles of W, which is summed in as many parts as pay there (layer/cut.py).
"""

from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from triton.runtime import driver

PROGRAM_BYTES = 1024  # of shared memory, that a processor keeps for each program beside the program's own


@dataclass(frozen=True, slots=True)
class Card:
    """A GPU, in bytes and seconds. Source of the numbers in CARDS: NVIDIA's data sheets and tuning guides."""

    name: str
    capability: tuple[int, int]
    processors: int  # streaming multiprocessors
    shared_per_program: int  # the most shared memory that one program may have
    shared_per_processor: int
    bandwidth: float  # of its memory, in bytes per second, as its bus has it


_A100, _ADA, _HOPPER = (166912, 167936), (101376, 102400), (232448, 233472)
CARDS = {
    card.name: card
    for card in (
        Card("H100 SXM", (9, 0), 132, *_HOPPER, 3.35e12),
        Card("H100 PCIe", (9, 0), 114, *_HOPPER, 2.0e12),
        Card("H200", (9, 0), 132, *_HOPPER, 4.8e12),
        Card("H20", (9, 0), 78, *_HOPPER, 4.0e12),
        Card("A100", (8, 0), 108, *_A100, 2.0e12),
        Card("L4", (8, 9), 58, *_ADA, 0.3e12),
        Card("RTX 4090", (8, 9), 128, *_ADA, 1.0e12),
        Card("B200", (10, 0), 148, *_HOPPER, 8.0e12),
    )
}
# What kernels are cut for where there is no GPU: compiled ahead of time, or in Triton's interpreter.
DEFAULT = CARDS["H200"]


def card_of(device: torch.device) -> Card:
    """The card that a device is; the default one for a CPU."""
    if device.type != "cuda":
        return DEFAULT
    return _card(torch.cuda.current_device() if device.index is None else device.index)


@cache
def _card(index: int) -> Card:
    found = torch.cuda.get_device_properties(index)
    active: Any = driver.active
    own = active.utils.get_device_properties(index)
    # Two transfers per clock, of as many bits as the bus is wide; some drivers do not say how fast the clock is.
    bandwidth = 2e3 * own["mem_clock_rate"] * own["mem_bus_width"] / 8
    return Card(
        found.name,
        (found.major, found.minor),
        found.multi_processor_count,
        own["max_shared_mem"],
        found.shared_memory_per_multiprocessor,
        bandwidth or DEFAULT.bandwidth / DEFAULT.processors * found.multi_processor_count,
    )
