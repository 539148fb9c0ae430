"""A run whose steps are one launch each: captured once as a CUDA graph, replayed for every job of its shapes.

Everything that varies lives in tensors that the graph reads: tokens, positions, lengths, seeds, weights, temperatures,
filters, flags. A job is loaded by copying its values there. Batches are padded to a bucket with idle rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from ..models.backbone import Backbone, Session
from .job import Job
from .run import Run

WARM_UP_STEPS = 2
Replay = Callable[[], object]


def bucket(batch: int) -> int:
    """The batch size that is captured for a batch: the next power of two."""
    return 1 << (batch - 1).bit_length()


class CapturedRun(Run):
    """A Run over static buffers. ``captures`` counts its graphs: one, or two where the caller's code runs between."""

    def __init__(
        self, job: Job, backbones: Sequence[Backbone], sessions: Sequence[Session], vocab_size: int, pool: Any
    ) -> None:
        super().__init__(job, backbones, sessions, vocab_size)
        self._pool = pool
        self._replay: Replay | None = None

    @property
    def captures(self) -> int:
        return int(self._replay is not None)

    def load(self, job: Job) -> None:
        """Take a job; the first one also captures the step, over a state that is then written over."""
        if self._replay is None:
            with torch.no_grad():
                self._replay = capture(self._whole_step if not job.interrupts else self.decode, self._pool)
        super().load(job)

    def _whole_step(self) -> None:
        self.decode()
        self.draw(1)

    def _next(self, step: int) -> None:
        assert self._replay is not None
        self._replay()
        if self.job.interrupts:
            self.draw(step)


def capture(step: Callable[[], object], pool: Any) -> Replay:
    """Record what a step launches on the device. Run first for real, so that kernels are compiled and memory is laid
    out when the recording starts."""
    side = torch.cuda.Stream()  # type: ignore[no-untyped-call]
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(WARM_UP_STEPS):
            step()
    torch.cuda.current_stream().wait_stream(side)
    torch.cuda.synchronize()
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph, pool=pool):
        step()
    return graph.replay
