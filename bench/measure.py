"""Timing that is the same for every implementation: rotating inputs, graph replay, device events; and peak memory.

A round is several calls, timed together. On a GPU they are one replay of a CUDA graph where the call can be captured,
and a loop where it cannot. Between two reads of the same inputs the device reads at least three times its L2 of others.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor
from torch.profiler import ProfilerActivity, profile

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda", torch.cuda.current_device()) if GPU else torch.device("cpu")
L2_MULTIPLE = 3
ROUND_BYTES = 1e9
MOST_CALLS, FEWEST_CALLS = 64, 4
CPU_CALLS = 2
WARMUP_ROUNDS, ROUNDS = (3, 20) if GPU else (1, 5)
COPIES = 23  # the first three are not counted


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many calls a round has, over how many different inputs."""

    calls: int
    sets: int


def rotation(size: int, device: torch.device = DEVICE) -> Rotation:
    """For calls that read `size` bytes; the same for every implementation."""
    if device.type == "cpu":
        return Rotation(CPU_CALLS, CPU_CALLS)
    calls = min(MOST_CALLS, max(FEWEST_CALLS, -(-int(ROUND_BYTES) // size)))
    return Rotation(calls, min(calls, -(-L2_MULTIPLE * l2_bytes() // size) + 1))


@cache
def l2_bytes() -> int:
    return torch.cuda.get_device_properties().L2_cache_size


@cache
def _others() -> Tensor:
    # Reading eight times the L2 also outlasts the launch of a replay, which would otherwise be part of its time.
    return torch.randn(8 * l2_bytes() // 4, device="cuda")


class Clock:
    """A timer for pytest-benchmark that moves only by the measured seconds of a call."""

    def __init__(self) -> None:
        self.seconds = 0.0

    def __call__(self) -> float:
        return self.seconds

    def advance(self, seconds: float) -> None:
        self.seconds += seconds


CLOCK = Clock()


def seconds_of(call: Callable[[], object], cold: bool = False) -> float:
    """Seconds of a call, by the device's own events on a GPU, there after a read that empties the L2 if ``cold``."""
    if not GPU:
        started = time.perf_counter()
        call()
        return time.perf_counter() - started
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    if cold:
        _others().sum()
    start.record()
    call()
    stop.record()
    stop.synchronize()
    return start.elapsed_time(stop) / 1e3


@cache
def copy_bandwidth() -> float:
    """Bytes that a large copy reads and writes per second, measured here."""
    source = torch.randn(2**28 if GPU else 2**24, device=DEVICE)
    target = torch.empty_like(source)
    seconds = sorted([seconds_of(lambda: target.copy_(source), cold=True) for _ in range(COPIES)][3:])
    return 2 * source.nbytes / seconds[len(seconds) // 2]


@torch.no_grad()
def time_calls(
    benchmark: Any,
    calls: Sequence[Callable[[], Tensor]],
    size: int,
    check: Callable[[list[Tensor]], object] | None = None,
) -> None:
    """Check what a round gives, time rounds, and note the bandwidth at which a call reads its ``size`` bytes.

    There is one call for each set of inputs; a round makes them in turn.
    """
    bandwidth, number = copy_bandwidth(), max(len(calls), rotation(size).calls)
    run, mode = as_round([calls[index % len(calls)] for index in range(number)])
    if check is not None:
        check(run()[: len(calls)])
    benchmark.pedantic(
        lambda: CLOCK.advance(seconds_of(run, cold=True) / number), rounds=ROUNDS, warmup_rounds=WARMUP_ROUNDS
    )
    speed = size / benchmark.stats.stats.median
    benchmark.extra_info.update(
        {
            "mode": mode,
            "calls": number,
            "sets": len(calls),
            "bytes": size,
            "GB/s": speed / 1e9,
            "share_of_copy": speed / bandwidth,
            "copy_GB/s": bandwidth / 1e9,
        }
    )


def waits_for_the_device(call: Callable[[], Tensor]) -> bool:
    """Whether a call synchronises, and so cannot be captured. Trying a capture that fails would spoil later ones."""
    before = torch.cuda.get_sync_debug_mode()
    torch.cuda.set_sync_debug_mode("error")
    try:
        call()
    except RuntimeError as error:
        if "synchroniz" not in str(error):
            raise
        return True
    finally:
        torch.cuda.set_sync_debug_mode(before)
    return False


def as_round(calls: list[Callable[[], Tensor]]) -> tuple[Callable[[], list[Tensor]], str]:
    """All calls as one function that gives their results, and its mode: graph or eager."""
    if not GPU:
        return lambda: [call() for call in calls], "eager"
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(3):
            calls[0]()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    if waits_for_the_device(calls[0]):
        return lambda: [call() for call in calls], "eager"
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        results = [call() for call in calls]

    def replay() -> list[Tensor]:
        graph.replay()
        return results

    return replay, "graph"


def peak_bytes(call: Callable[[], object], device: torch.device) -> int:
    """Bytes of torch's allocator at their highest during the call, less those before it.

    What libraries allocate past that allocator is not in it: cuBLAS's and oneDNN's workspaces.
    """
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        call()
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device) - before
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiled:
        call()
    assert profiled.profiler is not None and profiled.profiler.kineto_results is not None
    events = [event for event in profiled.profiler.kineto_results.events() if event.name() == "[memory]"]
    live = peak = 0
    for event in sorted(events, key=lambda event: event.start_ns()):
        live += event.nbytes()
        peak = max(peak, live)
    return peak
