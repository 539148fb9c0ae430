"""How much key-value cache fits, said before any of it is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any
from weakref import WeakSet

import torch

from ..errors import CacheMemoryError
from ..models.backbone import Backbone

MOST_SEQUENCES = 256
SHORTEST = 512  # tokens of a captured cache
# Of what is free; the rest is left for activations, logits and whatever else runs.
SHARE = 0.9
# Of what is free when a decoder is made, which may be less when it decodes.
AUTO_SHARE = 0.8
# What keeps caches between jobs: ``give_up`` lets go of them where no job runs.
_IDLE_CACHES: WeakSet[Any] = WeakSet()
_HELD: list[int] = []  # bytes of each uncaptured call on its way
_LOCK = Lock()


def add_idle_cache(cache: Any) -> None:
    """Ask it for its memory where there is too little."""
    with _LOCK:
        _IDLE_CACHES.add(cache)


def idle_caches() -> list[Any]:
    """Those that live now."""
    with _LOCK:
        return list(_IDLE_CACHES)


@contextmanager
def holding(size: int) -> Iterator[None]:
    """The length of an uncaptured call, whose cache has so many bytes."""
    _HELD.append(size)
    try:
        yield
    finally:
        _HELD.remove(size)


def held_bytes() -> int:
    """What the caches of all calls on their way have, streams that are not at their end included."""
    return sum([*_HELD, *(cache.held_bytes() for cache in idle_caches() if cache.is_taken)])


def free_bytes(device: torch.device) -> int | None:
    """Memory that can be had on a device now, None where the system does not say."""
    if device.type == "cuda":
        free, _ = torch.cuda.mem_get_info(device)
        idle = torch.cuda.memory_reserved(device) - torch.cuda.memory_allocated(device)
        return int(free) + idle
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
    except OSError:
        return None
    sizes = dict(line.split(":", 1) for line in lines if ":" in line)
    return int(sizes["MemAvailable"].split()[0]) * 1024 if "MemAvailable" in sizes else None


def cache_bytes(backbones: Sequence[Backbone], batch: int, length: int) -> int:
    """Bytes of all streams' caches for so many sequences of so many tokens."""
    return sum(backbone.cache_bytes(batch, length) for backbone in backbones)


def fits(backbones: Sequence[Backbone], batch: int, length: int, device: torch.device, reclaimed: int = 0) -> bool:
    """Whether a batch's cache does. ``reclaimed``: bytes in use that it would replace."""
    free = free_bytes(device)
    return free is None or cache_bytes(backbones, batch, length) <= free * SHARE + reclaimed


def check_fit(
    backbones: Sequence[Backbone],
    batch: int,
    length: int,
    device: torch.device,
    reclaimed: Callable[[], int] = lambda: 0,
) -> None:
    """Raise CacheMemoryError where a batch's cache would not fit, with every idle cache given up."""
    if fits(backbones, batch, length, device, reclaimed()):
        return
    for cache in idle_caches():
        cache.give_up()
    if fits(backbones, batch, length, device, reclaimed()):
        return
    streams = sum(len(backbone.streams) for backbone in backbones)
    free = (free_bytes(device) or 0) + reclaimed()
    others = held_bytes() - reclaimed()
    held = f" Calls that are not at their end hold {others} bytes: end them, or close their streams." * (others > 0)
    raise CacheMemoryError(
        f"the key-value cache of {batch} sequences of {length} tokens in {streams} streams takes "
        f"{cache_bytes(backbones, batch, length)} bytes, and {free} are free on {device}: lower max_batch_size, "
        f"max_length or max_new_tokens, or free some memory.{held}"
    )


def bucket(batch: int) -> int:
    """The batch size that is captured for a batch: the next power of two."""
    return 1 << (batch - 1).bit_length()


def slot_length(longest_prompt: int, max_new_tokens: int) -> int:
    """Tokens of a prompt and what follows, that of a step launched before the last one was read included."""
    return longest_prompt + max_new_tokens + 1


def slots_for(
    batch: int, longest_prompt: int, max_new_tokens: int, limits: tuple[int | None, int | None]
) -> tuple[int, int]:
    """Sequences and tokens of a captured cache for such a batch: rounded up to few sizes, at most what the decoder's
    limits, the largest batch and length that are allowed, ever need."""
    length = slot_length(longest_prompt, max_new_tokens)
    rounded = SHORTEST << max(0, (-(-length // SHORTEST) - 1).bit_length())
    most = slot_length(0, limits[1]) if limits[1] is not None else rounded
    return bucket(batch), max(length, min(rounded, most))


def largest_batch(backbones: Sequence[Backbone], length: int, device: torch.device) -> int:
    """How many sequences of ``length`` tokens fit, at least 1: a power of two, as captured steps are."""
    free = free_bytes(device)
    if free is None:
        return 1
    each = max(cache_bytes(backbones, 1, slot_length(0, length)), 1)
    count = max(1, min(MOST_SEQUENCES, int(free * AUTO_SHARE) // each))
    return 1 << (count.bit_length() - 1)
