"""A run whose steps are one launch each: captured once as a CUDA graph, replayed for every job of its shapes.

Everything that varies lives in tensors that the graph reads: tokens, positions, lengths, seeds, weights, temperatures,
filters, flags. A job is loaded by copying its values there. Batches are padded to a bucket with idle rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock
from typing import Any

import torch
from torch import Tensor

from ..models.backbone import Backbone, Session
from .job import Job
from .run import Run
from .state import State

WARM_UP_STEPS = 2
Replay = Callable[[], object]
_ONE_AT_A_TIME = Lock()  # of a process, torch asks


def bucket(batch: int) -> int:
    """The batch size that is captured for a batch: the next power of two."""
    return 1 << (batch - 1).bit_length()


class CapturedRun(Run):
    """A Run over static buffers. Where the caller's code runs in every step, only the forward passes are captured.

    ``pool`` and ``launched``, an event, are shared by all runs on one cache; None on a CPU.
    """

    captured = True

    def __init__(
        self,
        job: Job,
        backbones: Sequence[Backbone],
        sessions: Sequence[Session],
        vocab_size: int,
        pool: Any,
        launched: Any,
    ) -> None:
        super().__init__(job, backbones, sessions, vocab_size)
        self.state = self.state.copied()  # the caller's tensors stay as they are
        self._pool = pool
        self._launched = launched
        self._replay: Replay | None = None
        self._decoded: list[Tensor] = []  # where a replay leaves the logits

    def load(self, job: Job, state: State) -> None:
        """Take a job; the first one also captures the step, over a state that is then written over."""
        if self._launched is not None:  # the last job's steps may be on another stream
            self._launched.wait(torch.cuda.current_stream(job.device))
        if self._replay is None:
            self._replay = capture(self.decode if job.interrupts else self._whole_step, self._pool, job.device)
            # A whole step's logits are nobody's, so other captures may have their memory.
            self._decoded, self._logits = self._logits if job.interrupts else [], []
        self.job = job
        self.state.load(state)

    def launch(self, step: int) -> Tensor:
        report = super().launch(step)
        if self._launched is not None:
            self._launched.record(torch.cuda.current_stream(report.device))
        return report

    def _whole_step(self) -> None:
        self.decode()
        self.draw(1)

    def _next(self, step: int) -> None:
        assert self._replay is not None
        self._replay()
        if self.job.interrupts:
            self._logits = self._decoded
            self.draw(step)


def capture(step: Callable[[], object], pool: Any, device: torch.device) -> Replay:
    """Record what a step launches on the device. Run first for real, so that kernels are compiled and memory is laid
    out when the recording starts."""
    side = _side_stream(device)
    side.wait_stream(torch.cuda.current_stream(device))
    with _ONE_AT_A_TIME, torch.cuda.device(device), torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            step()
        graph = torch.cuda.CUDAGraph()
        # Meanwhile other threads may allocate, and wait for what they launched.
        with torch.cuda.graph(graph, pool=pool, stream=side, capture_error_mode="thread_local"):
            step()
    return graph.replay


@cache
def _side_stream(device: torch.device) -> Any:
    """The same for every capture, or they would not share the pool's memory."""
    return torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
