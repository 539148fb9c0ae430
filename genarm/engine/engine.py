"""Backbones and what runs on them: from a decoder's models to the run of one request."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import torch

from ..models.activation import Activation
from ..models.backbone import Backbone
from ..models.causal import CausalModel
from ..models.fused.backbone import FusedBackbone
from ..models.hf.session import HFBackbone, has_hooks
from ..models.plan import Plan
from ..models.positions import Positions
from ..request.options import Request
from ..request.preferences import Preference
from .graphs import CapturedRuns
from .memory import (
    AUTO_SHARE,
    MOST_SEQUENCES,
    Size,
    cache_bytes,
    check_fit,
    fits,
    free_bytes,
    holding,
    rounded,
    slot_length,
    slots_for,
)
from .rooms import rooms_for, session_of
from .run import GRAPHS, Run, paths

CAPTURING_DEVICES = {"cuda"}


class Engine:
    """Runs requests on the backbones of M models, the base's first.

    ``graphs``: capture the step on CUDA where every model runs on the fused decoder. ``limits`` are the most sequences
    and tokens that a request may have, None where calls decide. ``auto``: the former are what fits of whole texts.
    """

    def __init__(
        self,
        models: Sequence[CausalModel],
        plan: Plan,
        positions: Positions,
        graphs: bool = True,
        limits: tuple[int | None, int | None] = (None, None),
        auto: bool = False,
    ) -> None:
        self.names = tuple(model.name for model in models)
        self.plan = plan
        self.positions = positions
        self.graphs = graphs
        self._base = models[0]
        self._limits, self._auto = limits, auto
        self._captured = CapturedRuns(limits)
        self._has_warned = False

    @property
    def backbones(self) -> list[Backbone]:
        return self.plan.backbones

    @property
    def device(self) -> torch.device:
        """Where the models are now."""
        return self._base.device

    @property
    def kind(self) -> str:
        """Which paths a request takes, the base's first, and whether its steps are captured."""
        backbones = self.backbones
        return paths(backbones) + GRAPHS * bool(self._capturable(backbones))

    @property
    def activations(self) -> dict[int, Activation]:
        """Of the models that read but a prompt's end, since the base's reading is theirs too, by their places."""
        fused = (one for one in self.backbones if isinstance(one, FusedBackbone))
        pairs = (pair for one in fused for pair in zip(one.streams, one.activations, strict=True))
        return {stream: activation for stream, activation in pairs if activation is not None}

    @property
    def hooked(self) -> bool:
        """Whether somebody's hooks on a model see its rows."""
        return any(isinstance(one, HFBackbone) and has_hooks(one.model.module) for one in self.backbones)

    @property
    def captures(self) -> int:
        """How many steps have been captured so far."""
        return self._captured.captures

    def refresh(self) -> None:
        """Read the models anew at the next call."""
        self.plan.refresh()

    def release(self) -> None:
        """Let go of captured steps and caches, at once or after the request that is on its way."""
        self._captured.release()
        if self.device.type == "cuda":
            torch.cuda.empty_cache()

    def lag(self, request: Request) -> int:
        """How many steps the host reads behind. The caller's own Python code, if there is any, waits for each step."""
        return int(request.device.type == "cuda" and not request.interrupts)

    def groups(self, request: Request, rows: Sequence[int]) -> list[list[int]]:
        """``rows`` in parts that may be decoded together: those with one preference where a path that takes one is
        hooked to a module as a whole."""
        apart = [
            request.preferences[stream]
            for one in self.backbones
            if not one.mixes_preferences
            for stream in one.streams
            if stream in request.preferences
        ]
        found: dict[tuple[Preference, ...], list[int]] = {}
        for row in rows:
            found.setdefault(tuple(own[row] for own in apart), []).append(row)
        return list(found.values())

    def check(self, requests: Sequence[Request]) -> None:
        """Raise CacheMemoryError where one of these would not fit."""
        backbones = self._with_draft(requests[0])
        captured = bool(self._capturable(backbones))
        sizes = {self._size(backbones, request, captured) for request in requests}
        for size in sorted(
            sizes, key=lambda one: cache_bytes(backbones, one.batch, one.length, one.rooms), reverse=True
        ):
            check_fit(backbones, size, self.device, self._captured.held_bytes)

    def _size(self, backbones: Sequence[Backbone], request: Request, captured: bool) -> Size:
        """What a request takes."""
        asked = request.longest, request.most_behind
        slots = slots_for(request.batch, *asked, self._limits) if captured else (request.batch, slot_length(*asked))
        rooms = rooms_for(backbones, request, request.most_behind + 1, captured)
        return Size(*slots, request.longest, captured, rounded(rooms) if captured else rooms)

    def at_once(self, request: Request, rows: Sequence[int], most: int) -> int:
        """How many ``rows`` of a request are decoded at once: ``most``, or where that is what fits of whole texts and
        theirs begin with prompts that are held once, as many more as fit."""
        if not self._auto or free_bytes(self.device) is None:
            return most
        backbones = self._with_draft(request)
        captured = bool(self._capturable(backbones))
        while most < min(len(rows), MOST_SEQUENCES):
            starts = range(0, len(rows), 2 * most)
            chunks = [request.rows(rows[start : start + 2 * most]) for start in starts]
            sizes = [self._size(backbones, chunk, captured) for chunk in chunks]
            held, shares = self._captured.held_bytes(), [any(size.rooms) for size in sizes]
            if not all(shares) or not all(fits(backbones, one, self.device, held, AUTO_SHARE) for one in sizes):
                break
            most *= 2
        return most

    @contextmanager
    def run(self, request: Request) -> Iterator[Run]:
        """Buffers for a request, given back at the end. One that finds the captured ones taken has its own."""
        backbones = self._with_draft(request)
        capturable = self._capturable(backbones)
        if capturable and self._captured.take():
            try:
                with ExitStack() as stack:
                    given = [stack.enter_context(one.given(request.preferences)) for one in capturable]
                    yield self._captured.run(request, capturable, given)
            finally:
                self._captured.give_back()
            return
        is_beside = bool(capturable)
        if is_beside and not self._has_warned:
            self._has_warned = True
            warnings.warn(
                "another call on this decoder, or a stream that is not at its end, has its CUDA graphs: this call runs "
                "without, more slowly and in memory of its own. Close streams that are left half-way (steps.close(), "
                "or `with decoder.stream(...) as steps:`), and give threads a decoder each",
                stacklevel=2,
            )
        length = slot_length(request.longest, request.most_behind)
        with self.uncaptured(request, length, is_beside) as run:
            yield run

    @contextmanager
    def uncaptured(self, request: Request, length: int, is_beside: bool = False) -> Iterator[Run]:
        """A run on buffers of its own, of ``length`` tokens per row, whose steps are launched one by one."""
        backbones, batch = self._with_draft(request), request.batch
        rooms = rooms_for(backbones, request, length - request.longest)
        check_fit(backbones, Size(batch, length, request.longest, rooms=rooms), request.device)
        with holding(cache_bytes(backbones, batch, length, rooms)), ExitStack() as stack:
            given = [stack.enter_context(one.given(request.preferences)) for one in backbones]
            parts = zip(backbones, given, rooms, strict=True)
            sessions = [session_of(one, batch, length, rows, room) for one, rows, room in parts]
            yield Run(request, backbones, sessions, is_beside=is_beside)

    def exchanges(self, request: Request, slots: int, rows: Sequence[int]) -> bool:
        """Whether ``rows`` of a request may be decoded in so many slots, the next taking the place of one that has
        ended: where nothing knows which rows there are, and the longest of all fits as often."""
        if request.particles is not None or request.interrupts or request.preferences or self.hooked:
            return False
        backbones, all_rows = self._with_draft(request), request.rows(rows)
        if "padded" in paths(backbones):
            return False
        length = slot_length(all_rows.longest, request.most_behind)
        first = replace(request.rows(rows[:slots]), coming=all_rows.streams)
        rooms = rooms_for(backbones, first, request.most_behind + 1, bool(self._capturable(backbones)))
        return fits(backbones, Size(slots, length, length, rooms=rooms), self.device)

    def fits(self, batch: int, length: int) -> bool:
        """Whether so many rows of so many tokens do now."""
        return fits(self.backbones, Size(batch, length, length), self.device)

    def _with_draft(self, request: Request) -> list[Backbone]:
        """The backbones, and behind them a draft model's."""
        draft = None if request.speculate is None else request.speculate.model
        return self.backbones if draft is None else [*self.backbones, *draft.backbones]

    def _capturable(self, backbones: Sequence[Backbone]) -> list[FusedBackbone]:
        return capturable(backbones, self.device) if self.graphs else []


def capturable(backbones: Sequence[Backbone], device: torch.device) -> list[FusedBackbone]:
    """The backbones if their steps can be captured, else none."""
    fused = [backbone for backbone in backbones if isinstance(backbone, FusedBackbone)]
    return fused if device.type in CAPTURING_DEVICES and len(fused) == len(backbones) else []
