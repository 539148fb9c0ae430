"""Timing that is the same for every implementation: rotating inputs, graph replay, device events.

A round is several calls, timed together. On a GPU they are one replay of a CUDA graph where the call can be captured,
and a loop where it cannot. Between two reads of the same inputs the device reads at least three times its L2 of others.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch
from torch import Tensor

L2_MULTIPLE = 3
ROUND_BYTES = 1e9
MOST_CALLS, FEWEST_CALLS = 64, 4
CPU_CALLS = 2
WARMUP_ROUNDS, ROUNDS = 3, 20
CPU_WARMUP_ROUNDS, CPU_ROUNDS = 1, 5


@dataclass(frozen=True, slots=True)
class Rotation:
    """How many calls a round has, over how many different inputs."""

    calls: int
    sets: int


def rotation(size: int, device: torch.device) -> Rotation:
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


def timed_on_cpu(run: Callable[[], object], calls: int) -> None:
    """Run a round and move the clock by the seconds of one call."""
    start = time.perf_counter()
    run()
    CLOCK.seconds += (time.perf_counter() - start) / calls


def timed_on_gpu(run: Callable[[], object], calls: int) -> None:
    """The same with device events, behind a read of other data that empties the L2 of the inputs."""
    start, stop = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
    _others().sum()
    start.record()
    run()
    stop.record()
    stop.synchronize()
    CLOCK.seconds += start.elapsed_time(stop) / 1e3 / calls


def in_rounds(benchmark: Any, run: Callable[[], object], calls: int, device: torch.device) -> float:
    """Let pytest-benchmark run rounds of so many calls -> the median seconds of a call."""
    if device.type == "cpu":
        timed, rounds, warmup = timed_on_cpu, CPU_ROUNDS, CPU_WARMUP_ROUNDS
    else:
        timed, rounds, warmup = timed_on_gpu, ROUNDS, WARMUP_ROUNDS
    benchmark.pedantic(timed, args=(run, calls), rounds=rounds, warmup_rounds=warmup)
    median: float = benchmark.stats.stats.median
    return median


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


def as_round(calls: list[Callable[[], Tensor]], device: torch.device) -> tuple[Callable[[], list[Tensor]], str]:
    """All calls as one function that gives their tokens, and its mode: graph or eager."""
    if device.type == "cpu":
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
        tokens = [call() for call in calls]

    def replay() -> list[Tensor]:
        graph.replay()
        return tokens

    return replay, "graph"


@cache
def copy_bandwidth(device: torch.device) -> float:
    """Bytes read and written a second by a large copy, measured here."""
    source = torch.randn(2**28 if device.type == "cuda" else 2**24, device=device)
    target = torch.empty_like(source)
    timed = timed_on_cpu if device.type == "cpu" else timed_on_gpu
    seconds = []
    for _ in range(WARMUP_ROUNDS + ROUNDS):
        before = CLOCK()
        timed(lambda: target.copy_(source), 1)
        seconds.append(CLOCK() - before)
    return 2 * source.numel() * source.element_size() / sorted(seconds[WARMUP_ROUNDS:])[ROUNDS // 2]
