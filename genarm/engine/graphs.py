"""Runs whose steps are one launch each, captured once as CUDA graphs, and the one cache they share.

Everything that varies lives in tensors that a graph reads: tokens, positions, lengths, seeds, weights, temperatures,
filters, flags. A batch is loaded by copying its values there, and padded to a bucket with idle rows.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import cache
from threading import Lock
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ..models.backbone import Backbone, Session
from ..models.fused.network import FusedBackbone
from .job import Job
from .memory import IDLE_CACHES, cache_bytes, check_fit, fits
from .run import Run
from .state import State

MOST_RUNS = 16
LENGTH_MULTIPLE = 512


class CapturedRuns:
    """Captured steps by the shapes they serve, least recently used first.

    They share one cache per backbone and one memory pool, since only one of them runs at a time: ``take`` them first,
    and ``give_back``. The cache is made for the largest batch the decoder allows, so that it is made once; without such
    limits it grows with what is asked for.
    """

    def __init__(self, vocab_size: int, max_batch_size: int | None, max_length: int | None) -> None:
        self._vocab_size = vocab_size
        self._limits = (max_batch_size, max_length)
        self._runs: OrderedDict[Any, CapturedRun] = OrderedDict()
        self._caches: list[Tensor] = []
        self._size = (0, 0)  # sequences and tokens that the caches hold
        self._made_for: Any = None
        self._pool: Any = None
        self._launched: Any = None  # recorded behind every step
        self._taken = Lock()
        self._outdated = False
        self.captures = 0
        IDLE_CACHES.add(self)

    def take(self) -> bool:
        """Whether no other job runs on them, so that this one may."""
        return self._taken.acquire(blocking=False)

    def give_back(self) -> None:
        if self._outdated:
            self._clear()
        self._taken.release()

    def forget(self) -> None:
        """The weights are about to be laid out anew: let go of the old ones, or where a job is on its way, after it."""
        self._outdated = True
        if self.take():
            self.give_back()

    def give_up(self) -> None:
        """Memory is short: let go of everything, unless a job is on its way."""
        if self.take():
            self._clear()
            self.give_back()

    def held_bytes(self) -> int:
        """What a larger cache would replace."""
        return sum(cache.numel() for cache in self._caches)

    @torch.inference_mode(False)  # the next job may come outside of the mode this one is in
    @torch.no_grad()
    def run(self, job: Job, backbones: Sequence[FusedBackbone], layouts: Sequence[int]) -> CapturedRun:
        """A run for a job, loaded with it. ``layouts`` are the backbones' generations."""
        self._make_room(job, backbones, layouts)
        if not job.interrupts:  # the caller's code sees the rows there are
            job = job.padded(bucket(job.batch))
        job = job.captured()
        state = job.state(self._vocab_size)
        key = (state.shapes(), job.return_logprobs, job.interrupts)
        run = self._runs.pop(key, None)
        if run is None:
            sessions = [
                backbone.session(job.batch, self._size[1], cache)
                for backbone, cache in zip(backbones, self._caches, strict=True)
            ]
            run = CapturedRun(job, backbones, sessions, self._vocab_size, self._pool, self._launched)
            run.load(job, state)
            self.captures += 1
        else:
            run.load(job, state)
        self._runs[key] = run
        while len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        return run

    def _make_room(self, job: Job, backbones: Sequence[FusedBackbone], layouts: Sequence[int]) -> None:
        """Caches that hold the job; new ones, or weights that lie elsewhere, make every captured run useless."""
        made_for = [
            (ref(backbone), layout, _pointers(backbone)) for backbone, layout in zip(backbones, layouts, strict=True)
        ]
        needed = cache_size(job.batch, job.length)
        if made_for == self._made_for and needed[0] <= self._size[0] and needed[1] <= self._size[1]:
            return
        size = self._new_size(needed, backbones, job.device)
        self._clear()
        self._caches = [
            torch.zeros(cache_bytes([backbone], *size), dtype=torch.uint8, device=job.device) for backbone in backbones
        ]
        for backbone in backbones:
            backbone.weights.readers.add(self)
        self._size, self._made_for = size, made_for
        if job.device.type == "cuda":
            self._pool = torch.cuda.graph_pool_handle()
            self._launched = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _new_size(
        self, needed: tuple[int, int], backbones: Sequence[FusedBackbone], device: torch.device
    ) -> tuple[int, int]:
        """All that may be asked for, if it fits, else what the job needs."""
        batch, length = self._limits
        most = max(needed[0], self._size[0], bucket(batch or 1)), max(needed[1], self._size[1], (length or 0) + 1)
        if fits(backbones, *most, device, self.held_bytes()):
            return most
        check_fit(backbones, *needed, device, self.held_bytes)
        return needed

    def _clear(self) -> None:
        """Let go of graphs, caches and weights; how much was asked for is remembered."""
        self._runs.clear()
        self._caches.clear()
        self._made_for, self._outdated = None, False


def cache_size(batch: int, length: int) -> tuple[int, int]:
    """Sequences and tokens of the cache for a job of ``batch`` rows of ``length`` tokens."""
    return bucket(batch), -(-length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE


def _pointers(backbone: FusedBackbone) -> list[int]:
    """Where the weights lie that a session reads beside the fused linears, of which ``generation`` tells."""
    parts = backbone.weights.parts
    norms = [
        norm for one in parts.layers for norm in (one.attention_norm, one.mlp_norm, one.q_norm, one.k_norm) if norm
    ]
    return [part.weight.data_ptr() for part in (parts.embedding, parts.norm, parts.head, *norms)]


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
