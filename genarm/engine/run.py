"""One batch on its backbones: sessions, state, and the step over them.

A step is every backbone's forward pass, beside each other where a graph is captured, and one draw. Profilers see both
under names of their own.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext, suppress
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from ..models.backbone import Backbone, Session
from ..request.options import Request
from .draw import Draw, Rows
from .policy import make_policy
from .ragged_step import RaggedStep
from .state import State, new_state

GRAPHS = " (CUDA graphs)"
NOTHING: Mapping[int, list[Tensor]] = {}


class Run:
    """A request on its way. Every step is launched without waiting for the one before.

    ``sides``: CUDA streams for the backbones beside the first, where steps are captured. ``is_beside``: they are not,
    because another call has what they would run on.
    """

    captured = False

    def __init__(
        self, request: Request, backbones: Sequence[Backbone], sessions: Sequence[Session],
        state: State | None = None, sides: Sequence[Any] = (), is_beside: bool = False,
    ) -> None:  # fmt: skip
        self.request = request
        self.backbones = list(backbones)
        self.sessions = list(sessions)
        self.policy = make_policy(request, self.backbones)
        self.state: State = state or new_state(request, None, sessions[0].length, self.policy.places)
        self._sides = sides
        self._is_beside = is_beside
        self._draw = self.draw_of(self.state)
        self._logits: list[Tensor] = []
        self.ragged = None if self.state.ragged is None else RaggedStep(self, self._draw)
        self.gamma = 0  # drafts of the next step

    @property
    def kind(self) -> str:
        """The paths that ran, the base's first, and whether their steps are captured."""
        return paths(self.backbones) + self.graphs

    @property
    def graphs(self) -> str:
        """What ``kind`` says of the capture."""
        return GRAPHS * self.captured + " (no CUDA graphs: another call has them)" * self._is_beside

    @torch.no_grad()
    def launch(self, step: int) -> Tensor:
        """Run one step -> its report [3, B] on the device, overwritten by the next."""
        with annotated("step" if step else "prefill"):
            if step:
                self._next(step)
            else:
                self._logits = self.prefill()
                if self.ragged is None:
                    self.settle(0)
                else:
                    self.ragged.begin(self._logits)
        return self.state.report

    def draw_of(self, rows: Rows) -> Draw:
        """Draws for these rows, with what the request keeps of them."""
        kept = self.request.return_logprobs, self.request.wants_normalizers
        return Draw(rows, self.request.vocab_size, *kept, self.captured)

    def note_launched(self) -> None:
        """Whatever reads the buffers next has to wait for what was launched until now."""

    def _next(self, step: int) -> None:
        if self.ragged is None:
            self.decode()
            self.settle(step)
        else:
            self.ragged.step(self.gamma)

    def settle(self, step: int) -> None:
        """What comes behind a step's logits: the draw, the caller's criteria, and what particles go on."""
        self.draw(step)
        if self.request.halt is not None:
            self.state.stop_rows(self.request.halt(self.state.generated[:, : step + 1]))
        if self.state.population is not None:
            with annotated("resample"):
                self.resample()

    @property
    def exchanges(self) -> bool:
        """Whether another prompt can take the place of a row that has ended. Known once prompts have been read."""
        return self.ragged is not None and all(session.cuts for session in self.sessions)

    @torch.no_grad()
    def admit(self, rows: list[int], request: Request) -> State:
        """Read a request's prompts in the places of some rows, and draw what follows them -> its own state, whose
        report is to be read. The others stand still meanwhile."""
        assert self.ragged is not None
        with annotated("prefill"):
            if self.captured:
                request = replace(request, guidance=request.guidance.in_tensors())
            width = len(self.state.columns) - request.ahead - 1
            fresh = new_state(request, width, self.sessions[0].length, self.policy.places)
            self.ragged.begin(self.prefill(request, rows), fresh)
            self.state.take(rows, fresh)
        return fresh

    def resample(self) -> None:
        """Rows and their caches go on from where the particles that stay have come to."""
        origins = self.state.resample(self.captured)
        if origins is not None:
            for session in self.sessions:
                session.follow(origins)

    def decode(self) -> None:
        """Every stream's logits after the last tokens."""
        self._logits = [logits[:, 0] for logits in self.append(self.state.tokens[:, None])]

    def append(self, tokens: Tensor, known: Mapping[int, list[Tensor]] = NOTHING) -> list[Tensor]:
        """Every stream's logits [B, Q, V_m] after each of Q more tokens of its rows, [B, Q] int64. ``known``: those of
        backbones that have read them."""
        unread = [index for index in range(len(self.backbones)) if index not in known]
        read = side_by_side([partial(self.append_to, index, tokens) for index in unread], self._sides)
        outputs = {**known, **dict(zip(unread, read, strict=True))}
        return self._in_order([outputs[index] for index in range(len(self.backbones))])

    def append_to(self, index: int, tokens: Tensor) -> list[Tensor]:
        """The logits of one backbone's streams."""
        with annotated(f"branch {index}"):
            return self.sessions[index].append(self._readable(tokens, self.backbones[index]))

    def draw(self, step: int) -> None:
        """One token per row from those logits. ``step`` matters to the caller's own processors only."""
        edit = None
        if self.request.edit is not None:
            edit = partial(self.request.edit, self.state.generated[:, :step])
        with annotated("combine"):
            self.state.advance(self._draw(self._logits, edit))

    def prefill(self, request: Request | None = None, rows: Sequence[int] | None = None) -> list[Tensor]:
        """Every stream's logits [B, V_m] after its prompts; those of another request in some of the rows."""
        request, outputs = request or self.request, []
        for backbone, session in zip(self.backbones, self.sessions, strict=True):
            prompts = [self._prompts(request, stream) for stream in backbone.streams]
            outputs.append(session.prefill([[self._readable(row, backbone) for row in own] for own in prompts], rows))
        return self._in_order(outputs)

    def _readable(self, ids: Tensor, backbone: Backbone) -> Tensor:
        """Ids for a backbone's embedding. A row holds others only where its models there have weight 0, and what they
        say from then on is not used."""
        ids_of = self.request.prompt_ids
        known = min(ids_of[one] if one < len(ids_of) else backbone.vocab_size for one in backbone.streams)
        return ids if known >= self.request.vocab_size else ids.clamp(max=known - 1)

    @staticmethod
    def _prompts(request: Request, stream: int) -> list[Tensor]:
        """A draft model, whose stream is behind the others, reads the base's."""
        return request.streams[stream if stream < len(request.streams) else 0].rows

    def _in_order(self, outputs: list[list[Tensor]]) -> list[Tensor]:
        """The backbones' logits as the decoder's models stand, the base's first."""
        logits = {
            stream: rows
            for backbone, own in zip(self.backbones, outputs, strict=True)
            for stream, rows in zip(backbone.streams, own, strict=True)
        }
        return [logits[stream] for stream in range(len(self.request.streams))]


def paths(backbones: Sequence[Backbone]) -> str:
    """The backbones' kinds in words."""
    return "+".join(dict.fromkeys(one.kind for one in backbones))


@contextmanager
def on_stream(stream: Any) -> Iterator[None]:
    """A block whose launches go to a CUDA stream, between what the caller's own has now and what it gets next. The same
    stream for a whole call keeps its steps in order, whichever one the caller is on in between. None: a CPU's."""
    if stream is None:
        yield
        return
    own = torch.cuda.current_stream(stream.device)
    if own != stream:
        stream.wait_stream(own)
    with torch.cuda.stream(stream):
        yield
    if own != stream:
        own.wait_stream(stream)


Branch = Callable[[], list[Tensor]]


def side_by_side(branches: Sequence[Branch], sides: Sequence[Any]) -> list[list[Tensor]]:
    """Each branch's result. While a graph is captured each after the first has a stream of ``sides``, joined at the
    end.

    Elsewhere one follows the other: between streams of a running program the allocator would have to be told of every
    tensor that changes hands, and without a graph the host launches them one by one anyway.
    """
    if len(branches) == 1 or not sides or not torch.cuda.is_current_stream_capturing():
        return [branch() for branch in branches]
    main = torch.cuda.current_stream(sides[0].device)
    results: list[list[Tensor]] = []
    forked: list[Any] = []
    try:
        for branch, side in zip(branches[1:], sides, strict=False):
            side.wait_stream(main)
            forked.append(side)
            with torch.cuda.stream(side):
                results.append(branch())
        results.insert(0, branches[0]())
    except BaseException:  # a stream left alone would hide the branch's error, as a join that is refused would
        for side in forked:
            with suppress(RuntimeError):
                main.wait_stream(side)
        raise
    for side in forked:
        main.wait_stream(side)
    return results


def annotated(name: str) -> AbstractContextManager[Any]:
    """A range called ``name`` in the timeline of whatever profiler is watching; nothing without one."""
    if torch._C._autograd._profiler_enabled():
        return torch.profiler.record_function(name)
    if torch.cuda.is_available():
        return torch.cuda.nvtx.range(name)
    return nullcontext()
