"""How a step becomes a CUDA graph, and the streams that it is recorded on."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from threading import Lock
from typing import Any

import torch

WARM_UP_STEPS = 2
MOST_STREAMS = 32  # that torch has for each device
Replay = Callable[[], object]
ONE_AT_A_TIME = Lock()  # of a process, torch asks


def capture(step: Callable[[], object], pool: Any, stream: Any) -> Replay:
    """Record what a step launches on the stream's device. Run first for real, so that kernels are compiled and memory
    is laid out when the recording starts."""
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with ONE_AT_A_TIME, torch.cuda.device(stream.device), torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            step()
        graph = torch.cuda.CUDAGraph()
        # Meanwhile other threads may allocate, and wait for what they launched.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            step()
    return graph.replay


def first_cause(error: BaseException) -> BaseException:
    """What was raised first. A recording that is broken off raises errors of its own on the way out."""
    while (before := error.__cause__ or error.__context__) is not None:
        error = before
    return error


def own_streams(count: int, device: torch.device, others: Iterable[Any] = ()) -> list[Any]:
    """So many CUDA streams of a device that are none of the ``others``, as far as torch's supply goes."""
    taken = {stream.cuda_stream for stream in others}
    found: list[Any] = []
    spare: list[Any] = []
    for _ in range(MOST_STREAMS):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        (spare if stream.cuda_stream in taken else found).append(stream)
        taken.add(stream.cuda_stream)
        if len(found) == count:
            break
    return [*found, *spare][:count]
