"""Runs whose steps are one launch each, captured once as CUDA graphs, and the one cache they share.

Everything that varies lives in tensors that a graph reads: tokens, positions, lengths, seeds, weights, temperatures,
filters, flags. A request is loaded by copying its values there, and its batch is padded to a bucket with idle rows.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from threading import Lock
from typing import Any
from weakref import ref

import torch
from torch import Tensor

from ..models.fused.backbone import FusedBackbone
from ..models.fused.session import FusedSession
from ..models.fused.slots import RowSlots
from ..models.fused.weights import Tensors
from ..request.options import Request
from .memory import Size, add_idle_cache, bucket, cache_bytes, check_fit, fits, idle_caches, rounded, slots_for
from .policy import make_policy
from .recording import Replay, capture, first_cause, own_streams
from .rooms import or_more, rooms_for
from .run import Run
from .state import State, new_state

MOST_RUNS = 16
WIDTH_MULTIPLE = 512
NOTHING = Size(0, 0, 0)
_CHOOSING = Lock()  # streams, for all decoders


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
        self._size = NOTHING  # what the caches hold
        self._made_for: Any = None
        self.pool: Any = None
        self.launched: Any = None  # recorded behind every step
        self.streams: list[Any] = []
        self._taken = Lock()
        self._outdated = False
        self._has_warned = False
        self.captures = 0
        add_idle_cache(self)

    @property
    def is_taken(self) -> bool:
        """Whether a request runs on them, or a stream of one is not at its end."""
        return self._taken.locked()

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
    def run(self, request: Request, backbones: Sequence[FusedBackbone], given: Sequence[RowSlots]) -> CapturedRun:
        """A run for a request, loaded with it. ``given``: each backbone's slots of the rows' preferences."""
        if self.launched is not None:  # the last request's steps may be on another stream
            self.launched.wait(torch.cuda.current_stream(request.device))
        tensors = [backbone.tensors() for backbone in backbones]
        self._make_room(request, backbones, tensors)
        if not request.interrupts:  # the caller's code sees the rows there are
            request = padded(request, bucket(request.batch))
        request = replace(request, guidance=request.guidance.in_tensors())
        width = -(-request.max_new_tokens // WIDTH_MULTIPLE) * WIDTH_MULTIPLE
        policy = make_policy(request, backbones)
        state = new_state(request, width, self._size.length, policy.places)
        kept = request.return_logprobs, request.wants_normalizers
        draft = None if request.speculate is None else request.speculate.name
        key = (state.shapes(), request.vocab_size, *kept, request.interrupts, draft, policy.places)
        if key not in self._runs:
            if len(self._runs) == MOST_RUNS:
                self._end_graphs()
            self._runs[key] = self._new_run(request, state, backbones, tensors, given)
        self._current = self._runs[key]
        self._current.attach(request, backbones, tensors, given)
        self._current.capture_once()
        self._current.state.load(state)
        return self._current

    def note_capture(self, error: Exception | None) -> None:
        """A step was captured, or was not: said once, since it costs time and nothing else."""
        if error is None:
            self.captures += 1
            return
        if self.pool is not None:  # what was broken off may have left something in it
            self.pool = torch.cuda.graph_pool_handle()
        if not self._has_warned:
            cause = first_cause(error)
            warnings.warn(
                f"a decoding step could not be captured as a CUDA graph ({type(cause).__name__}: {cause}): it runs "
                "without, which is slower and draws the same tokens; after decoder.release() it is tried again, and "
                'engine="eager" does not try',
                stacklevel=2,
            )
        self._has_warned = True

    def _new_run(
        self,
        request: Request,
        state: State,
        backbones: Sequence[FusedBackbone],
        tensors: Sequence[Tensors],
        given: Sequence[RowSlots],
    ) -> CapturedRun:
        parts = zip(backbones, given, self._caches, tensors, self._size.rooms, strict=True)
        size = request.batch, self._size.length
        sessions = [one.session(*size, slots, cache, own, room) for one, slots, cache, own, room in parts]
        if request.device.type == "cuda" and not self.streams:
            self.take_streams(len(backbones), request.device)
        return CapturedRun(request, state, backbones, sessions, self)

    def take_streams(self, count: int, device: torch.device) -> None:
        """Streams that no other living graphs have."""
        with _CHOOSING:
            others = [stream for runs in idle_caches() for stream in runs.streams]
            self.streams = own_streams(count, device, others)

    def _make_room(self, request: Request, backbones: Sequence[FusedBackbone], tensors: Sequence[Tensors]) -> None:
        """Caches that hold the request; new ones, or weights that lie elsewhere, make every captured step useless."""
        made_for = [(ref(backbone), own.places()) for backbone, own in zip(backbones, tensors, strict=True)]
        needed = slots_for(request.batch, request.longest, request.most_behind, self._limits)
        rooms = rounded(rooms_for(backbones, request, request.most_behind + 1, captured=True))
        same = made_for == self._made_for
        largest = Size(
            max(needed[0], self._size.batch), max(needed[1], self._size.length), request.longest, True,
            or_more(rooms, self._size.rooms if same else ()),
        )  # fmt: skip
        if same and (*largest[:2], largest.rooms) == (*self._size[:2], self._size.rooms):
            return
        if not fits(backbones, largest, request.device, self.held_bytes()):
            largest = Size(*needed, request.longest, True, rooms)
            check_fit(backbones, largest, request.device, self.held_bytes)
        self._end()
        self._caches = [
            torch.zeros(cache_bytes([one], *largest[:2], (room,)), dtype=torch.uint8, device=request.device)
            for one, room in zip(backbones, largest.rooms, strict=True)
        ]
        self._size, self._made_for = largest, made_for
        if request.device.type == "cuda":
            self.pool = torch.cuda.graph_pool_handle()
            self.launched = torch.cuda.Event()  # type: ignore[no-untyped-call]

    def _end(self) -> None:
        """Let go of graphs and caches."""
        self._end_graphs()
        self._caches.clear()
        self._made_for, self._size = None, NOTHING

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
        self._pool, self._launched, self._note = owner.pool, owner.launched, owner.note_capture
        self._replays: dict[int, Replay] = {}  # by the drafts of a step
        self._has_failed = False
        self._decoded: list[Tensor] = []  # where a replay leaves the logits

    @property
    def graphs(self) -> str:
        return " (no CUDA graphs: a capture failed)" if self._has_failed else super().graphs

    def attach(
        self,
        request: Request,
        backbones: Sequence[FusedBackbone],
        tensors: Sequence[Tensors],
        given: Sequence[RowSlots],
    ) -> None:
        """Take a request, the weights it reads, and which of their adapters each row has."""
        for session, backbone, own, slots in zip(self._fused, backbones, tensors, given, strict=True):
            session.attach(own)
            session.give(backbone.slots.row_adapters(own.adapters, session.batch, slots))
        self.request, self.backbones, self.policy = request, list(backbones), make_policy(request, backbones)

    def capture_once(self) -> None:
        """Capture the step, over a state that is to be written over. One that cannot be captured runs as it is."""
        if self._replays or self._has_failed:
            return
        try:
            for gamma in self.policy.gammas:
                self._replays[gamma] = capture(self._captured_step(gamma), self._pool, self._stream)
        except Exception as error:
            self._has_failed = True
            self._replays.clear()
            self._note(error)
        else:
            self._note(None)
        # A whole step's logits are nobody's, so other captures may have their memory.
        self._decoded, self._logits = self._logits if self.request.interrupts else [], []

    def detach(self) -> None:
        """Hold neither weights, which the module may move or drop before the next request, nor what a plan may drop."""
        for session in self._fused:
            session.attach(None)
        self.backbones = []

    def launch(self, step: int) -> Tensor:
        report = super().launch(step)
        self.note_launched()
        return report

    def note_launched(self) -> None:
        if self._launched is not None:
            self._launched.record(torch.cuda.current_stream(self.request.device))

    def _captured_step(self, gamma: int) -> Callable[[], object]:
        if self.ragged is not None:
            return partial(self.ragged.step, gamma)
        return self.decode if self.request.interrupts else self._whole_step

    def _whole_step(self) -> None:
        self.decode()
        self.settle(1)

    def _next(self, step: int) -> None:
        replay = self._replays.get(self.gamma)
        if replay is None:
            super()._next(step)
            return
        replay()
        if self.request.interrupts:
            self._logits = self._decoded
            self.settle(step)


def padded(request: Request, batch: int) -> Request:
    """The same with rows added that are copies of the first, up to ``batch``: idle slots of a captured step."""
    rows = request.rows([*range(request.batch), *[0] * (batch - request.batch)])
    return replace(rows, row_ids=request.row_ids)
