"""Runs whose steps are one launch each, captured once as CUDA graphs, and the one cache they share.

Everything that varies lives in tensors that a graph reads: tokens, positions, lengths, seeds, weights, temperatures,
filters, flags. A request is loaded by copying its values there, and its batch is padded to a bucket with idle rows.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from threading import Lock
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ..models.fused.session import FusedBackbone, FusedSession
from ..models.fused.weights import Tensors
from ..request.options import Request
from .memory import add_idle_cache, bucket, cache_bytes, check_fit, fits, idle_caches, slots_for
from .run import Run
from .state import State, new_state

MOST_RUNS = 16
WARM_UP_STEPS = 2
WIDTH_MULTIPLE = 512
MOST_STREAMS = 32  # that torch has for each device
Replay = Callable[[], object]
_ONE_AT_A_TIME = Lock()  # of a process, torch asks


class CapturedRuns:
    """Captured steps by the shapes they serve.

    They share one cache per backbone and one memory pool, since only one of them runs at a time: ``take`` them first,
    and ``give_back``. The cache grows with what is asked for, up to the decoder's limits. Streams and graphs are of one
    generation: ending one graph takes cuBLAS's workspace from all that were captured on its stream, so all end together
    and no other has their stream.
    """

    def __init__(self, limits: tuple[int | None, int | None]) -> None:
        self._limits = limits  # sequences and tokens
        self._runs: dict[Any, CapturedRun] = {}
        self._current: CapturedRun | None = None
        self._caches: list[Tensor] = []
        self._size = (0, 0)  # sequences and tokens that the caches hold
        self._made_for: Any = None
        self.pool: Any = None
        self.launched: Any = None  # recorded behind every step
        self.streams: list[Any] = []
        self._taken = Lock()
        self._outdated = False
        self.captures = 0
        add_idle_cache(self)

    def take(self) -> bool:
        """Whether no other request runs on them, so that this one may."""
        return self._taken.acquire(blocking=False)

    def give_back(self) -> None:
        try:
            if self._current is not None:
                self._current.detach()
                self._current = None
        finally:
            self._taken.release()
        if self._outdated:
            self.give_up()

    def release(self) -> None:
        """Let go of everything, or where a request is on its way, after it."""
        self._outdated = True
        self.give_up()

    def give_up(self) -> None:
        """Memory is short: let go of everything, unless a request is on its way."""
        if self.take():
            try:
                self._outdated = False
                self._end()
            finally:
                self._taken.release()

    def held_bytes(self) -> int:
        """What a larger cache would replace."""
        return sum(cache.numel() for cache in self._caches)

    @torch.inference_mode(False)  # the next request may come outside of the mode this one is in
    @torch.no_grad()
    def run(self, request: Request, backbones: Sequence[FusedBackbone]) -> CapturedRun:
        """A run for a request, loaded with it."""
        if self.launched is not None:  # the last request's steps may be on another stream
            self.launched.wait(torch.cuda.current_stream(request.device))
        tensors = [backbone.tensors() for backbone in backbones]
        self._make_room(request, backbones, tensors)
        if not request.interrupts:  # the caller's code sees the rows there are
            request = padded(request, bucket(request.batch))
        request = replace(request, guidance=request.guidance.in_tensors())
        width = -(-request.max_new_tokens // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        state = new_state(request, width)
        key = (state.shapes(), request.vocab_size, request.return_logprobs, request.interrupts)
        if key not in self._runs:
            if len(self._runs) == MOST_RUNS:
                self._end_graphs()
            self._runs[key] = self._new_run(request, state, backbones, tensors)
            self.captures += 1
        self._current = self._runs[key]
        self._current.load(request, state, tensors)
        return self._current

    def _new_run(
        self, request: Request, state: State, backbones: Sequence[FusedBackbone], tensors: Sequence[Tensors]
    ) -> CapturedRun:
        sessions = [
            backbone.session(request.batch, self._size[1], cache, own)
            for backbone, cache, own in zip(backbones, self._caches, tensors, strict=True)
        ]
        if request.device.type == "cuda" and not self.streams:
            self.streams = own_streams(len(backbones), request.device)
        return CapturedRun(request, state, backbones, sessions, self)

    def _make_room(self, request: Request, backbones: Sequence[FusedBackbone], tensors: Sequence[Tensors]) -> None:
        """Caches that hold the request; new ones, or weights that lie elsewhere, make every captured step useless."""
        made_for = [(ref(backbone), own.places()) for backbone, own in zip(backbones, tensors, strict=True)]
        needed = slots_for(request.batch, request.longest, request.max_new_tokens, self._limits)
        if made_for == self._made_for and needed[0] <= self._size[0] and needed[1] <= self._size[1]:
            return
        size = max(needed[0], self._size[0]), max(needed[1], self._size[1])
        if not fits(backbones, *size, request.device, self.held_bytes()):
            size = needed
            check_fit(backbones, *size, request.device, self.held_bytes)
        self._end()
        self._caches = [
            torch.zeros(cache_bytes([backbone], *size), dtype=torch.uint8, device=request.device)
            for backbone in backbones
        ]
        self._size, self._made_for = size, made_for
        if request.device.type == "cuda":
            self.pool = torch.cuda.graph_pool_handle()
            self.launched = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _end(self) -> None:
        """Let go of graphs and caches."""
        self._end_graphs()
        self._caches.clear()
        self._made_for, self._size = None, (0, 0)

    def _end_graphs(self) -> None:
        """Once the last step that was launched has run. The next ones have a pool of their own."""
        if self.launched is not None:
            self.launched.synchronize()
            self.pool = torch.cuda.graph_pool_handle()
        self._runs.clear()
        self.streams = []


class CapturedRun(Run):
    """A Run over static buffers. Where the caller's code runs in every step, only the forward passes are captured."""

    captured = True

    def __init__(
        self,
        request: Request,
        state: State,
        backbones: Sequence[FusedBackbone],
        sessions: Sequence[FusedSession],
        owner: CapturedRuns,
    ) -> None:
        # The caller's tensors stay as they are.
        super().__init__(request, backbones, sessions, state.copied(), owner.streams[1:])
        self._fused = list(sessions)
        self._stream = owner.streams[0] if owner.streams else None
        self._pool, self._launched = owner.pool, owner.launched
        self._replay: Replay | None = None
        self._decoded: list[Tensor] = []  # where a replay leaves the logits

    def load(self, request: Request, state: State, tensors: Sequence[Tensors]) -> None:
        """Take a request; the first one also captures the step, over a state that is then written over."""
        for session, own in zip(self._fused, tensors, strict=True):
            session.attach(own)
        self.request = request
        if self._replay is None:
            self._replay = capture(self.decode if request.interrupts else self._whole_step, self._pool, self._stream)
            # A whole step's logits are nobody's, so other captures may have their memory.
            self._decoded, self._logits = self._logits if request.interrupts else [], []
        self.state.load(state)

    def detach(self) -> None:
        """Hold no weights: the module may move or drop them before the next request."""
        for session in self._fused:
            session.attach(None)

    def launch(self, step: int) -> Tensor:
        report = super().launch(step)
        self.note_launched()
        return report

    def note_launched(self) -> None:
        if self._launched is not None:
            self._launched.record(torch.cuda.current_stream(self.request.device))

    def _whole_step(self) -> None:
        self.decode()
        self.draw(1)

    def _next(self, step: int) -> None:
        assert self._replay is not None
        self._replay()
        if self.request.interrupts:
            self._logits = self._decoded
            self.draw(step)


def padded(request: Request, batch: int) -> Request:
    """The same with rows added that are copies of the first, up to ``batch``: idle slots of a captured step."""
    rows = request.rows([*range(request.batch), *[0] * (batch - request.batch)])
    return replace(rows, row_ids=request.row_ids)


def capture(step: Callable[[], object], pool: Any, stream: Any) -> Replay:
    """Record what a step launches on the stream's device. Run first for real, so that kernels are compiled and memory
    is laid out when the recording starts."""
    stream.wait_stream(torch.cuda.current_stream(stream.device))
    with _ONE_AT_A_TIME, torch.cuda.device(stream.device), torch.cuda.stream(stream):
        for _ in range(WARM_UP_STEPS):
            step()
        graph = torch.cuda.CUDAGraph()
        # Meanwhile other threads may allocate, and wait for what they launched.
        with torch.cuda.graph(graph, pool=pool, stream=stream, capture_error_mode="thread_local"):
            step()
    return graph.replay


def own_streams(count: int, device: torch.device) -> list[Any]:
    """So many CUDA streams of a device that no living graphs have, as far as torch's supply of them goes."""
    taken = {stream.cuda_stream for runs in idle_caches() for stream in runs.streams}
    found: list[Any] = []
    spare: list[Any] = []
    for _ in range(MOST_STREAMS):
        stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        (spare if stream.cuda_stream in taken else found).append(stream)
        taken.add(stream.cuda_stream)
        if len(found) == count:
            break
    return [*found, *spare][:count]
