"""What a batch takes on each device, cache, passes and logits, said before any of it is allocated."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any, NamedTuple
from weakref import WeakSet

import torch

from ..errors import CacheMemoryError
from ..models.backbone import Backbone
from ..models.fused.prefixes import Room
from .rooms import Rooms, answer_rooms, places_of, with_rooms

MOST_SEQUENCES = 256
SHORTEST = 512  # tokens of a captured cache
# Of what is free; the rest is left for fragments, small buffers and whatever else runs.
SHARE = 0.9
# Of what is free when a decoder is made, which may be less when it decodes.
AUTO_SHARE = 0.8
WORKSPACE = 2**25  # bytes that cuBLAS takes on a stream of a Hopper GPU, where it takes most
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
    """Memory that can be had on a device now, idle steps' pools included; None where the system does not say."""
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


def cache_bytes(backbones: Sequence[Backbone], batch: int, length: int, rooms: Rooms = ()) -> int:
    """Bytes of all streams' caches for so many sequences of so many tokens; ``rooms``: of their prompts."""
    return sum(sum(places_of(one, batch, length, room).values()) for one, room in with_rooms(backbones, rooms))


class Size(NamedTuple):
    """Rows of ``length`` tokens, of which a prompt has ``prompt`` at most, in steps that are captured or not. Each
    backbone's prompts take ``rooms``."""

    batch: int
    length: int
    prompt: int
    captured: bool = False
    rooms: Rooms = ()


class Need(NamedTuple):
    """Bytes on one device, beside the weights."""

    cache: int = 0
    passes: int = 0
    logits: int = 0
    graphs: int = 0

    @property
    def total(self) -> int:
        return sum(self)

    def __str__(self) -> str:
        parts = zip(("the key-value cache", "passes over prompts", "logits", "CUDA graphs"), self, strict=True)
        return ", ".join(f"{size} for {name}" for name, size in parts if size)


def needs(backbones: Sequence[Backbone], size: Size, device: torch.device) -> dict[torch.device, Need]:
    """What a batch takes on each device that some model runs on; ``device`` is the one that draws."""
    found = dict.fromkeys([device], Need())
    for backbone, room in with_rooms(backbones, size.rooms):
        for place, cache in places_of(backbone, size.batch, size.length, room).items():
            found[place] = _with(found.get(place, Need()), backbone, cache, size)
    own = found[device]
    graphs = graph_bytes(backbones, size.batch) if size.captured else 0
    found[device] = own._replace(logits=own.logits + draw_bytes(backbones, size.batch), graphs=graphs)
    return found


def _with(need: Need, backbone: Backbone, cache: int, size: Size) -> Need:
    """One backbone more. They read one after the other, so that the largest pass counts. Logits stay, twice those of
    prompts: as the passes leave them, and in the order of the rows; a step's take their place."""
    largest = max(need.passes, backbone.prompt_bytes(size.batch, size.prompt), backbone.step_bytes(size.batch))
    return Need(need.cache + cache, largest, need.logits + 2 * logit_bytes(backbone, size.batch))


def logit_bytes(backbone: Backbone, batch: int) -> int:
    """S · B · V elements of all its streams' logits of one token per row."""
    return len(backbone.streams) * batch * backbone.vocab_size * backbone.dtype.itemsize


def draw_bytes(backbones: Sequence[Backbone], batch: int) -> int:
    """Four of [B, V] in float32, of a draw in which a penalty or the caller's code acts: the combined scores, what is
    made of them, and two on the way. Without these a GPU's kernels read the logits as they are."""
    return 4 * batch * max(one.vocab_size for one in backbones) * 4


def graph_bytes(backbones: Sequence[Backbone], batch: int) -> int:
    """A captured step's private pool: activations, logits and cuBLAS's workspace of every backbone, which run beside
    each other, and the draw. Graphs share the pool and run one at a time, so that it counts once."""
    own = sum(one.step_bytes(batch) + logit_bytes(one, batch) + WORKSPACE for one in backbones)
    return own + draw_bytes(backbones, batch)


def fits(
    backbones: Sequence[Backbone], size: Size, device: torch.device, reclaimed: int = 0, share: float = SHARE
) -> bool:
    """Whether a batch does, on every device, in that share of what is free. ``reclaimed``: bytes in use on ``device``
    that it would replace."""
    return _lacking(backbones, size, device, reclaimed, share) is None


def _lacking(
    backbones: Sequence[Backbone], size: Size, device: torch.device, reclaimed: int, share: float
) -> tuple[torch.device, Need, int] | None:
    """The first device that has too little, what it would need, and the bytes that it has."""
    for place, need in needs(backbones, size, device).items():
        free, own = free_bytes(place), reclaimed if place == device else 0
        if free is not None and need.total > free * share + own:
            return place, need, free + own
    return None


def check_fit(
    backbones: Sequence[Backbone], size: Size, device: torch.device, reclaimed: Callable[[], int] = lambda: 0
) -> None:
    """Raise CacheMemoryError where a batch would not fit, with every idle cache given up."""
    if fits(backbones, size, device, reclaimed()):
        return
    for cache in idle_caches():
        cache.give_up()
    lacking = _lacking(backbones, size, device, reclaimed(), SHARE)
    if lacking is None:
        return
    place, need, free = lacking
    streams = sum(len(backbone.streams) for backbone in backbones)
    others = held_bytes() - reclaimed()
    held = f" Calls that are not at their end hold {others} bytes: end them, or close their streams." * (others > 0)
    raise CacheMemoryError(
        f"{size.batch} sequences of {size.length} tokens in {streams} streams take {need.total} bytes on {place} "
        f"({need}), and {free} are free on {place}, of which a tenth is left alone: lower max_batch_size, max_length "
        f"or max_new_tokens (with particles, their number), or free some memory.{held}"
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
    most = slot_length(0, limits[1]) if limits[1] is not None else length_bucket(length)
    return bucket(batch), max(length, min(length_bucket(length), most))


def length_bucket(length: int) -> int:
    """Tokens of a captured cache for so many: SHORTEST, or twice that, and so on."""
    return SHORTEST << max(0, (-(-length // SHORTEST) - 1).bit_length())


def rounded(rooms: Rooms) -> Rooms:
    """The same in few sizes, as captured caches have them."""
    return tuple(
        None if room is None else Room(bucket(room.prefixes), length_bucket(room.prompt), length_bucket(room.own))
        for room in rooms
    )


def largest_batch(backbones: Sequence[Backbone], length: int, device: torch.device, captured: bool = False) -> int:
    """How many sequences of ``length`` tokens fit, at least 1: a power of two, as captured steps are."""
    batch = MOST_SEQUENCES if free_bytes(device) is not None else 1
    while batch > 1:
        held = slot_length(0, length)
        size = Size(batch, held, length, captured, answer_rooms(backbones, held))
        if fits(backbones, size, device, share=AUTO_SHARE):
            break
        batch //= 2
    return batch
