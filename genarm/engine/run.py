"""One batch on its backbones: sessions, state, and the step over them."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import torch
from torch import Tensor

from ..models.backbone import Backbone, Session
from .branches import side_by_side
from .job import Job
from .ranges import annotated
from .state import State
from .step import draw


class Run:
    """A job on its way. Every step is launched without waiting for the one before."""

    captured = False

    def __init__(self, job: Job, backbones: Sequence[Backbone], sessions: Sequence[Session], vocab_size: int) -> None:
        self.job = job
        self.backbones = list(backbones)
        self.sessions = list(sessions)
        self.vocab_size = vocab_size
        self.state: State = job.state(vocab_size)
        self._logits: list[Tensor] = []

    @property
    def kind(self) -> str:
        """The paths that ran, the base's first, and whether their steps are captured."""
        return paths(self.backbones, self.captured)

    @torch.no_grad()
    def launch(self, step: int) -> Tensor:
        """Run one step -> its report [3, B] on the device, overwritten by the next."""
        with annotated("step" if step else "prefill"):
            if step:
                self._next(step)
            else:
                self._logits = self._prefill()
                self.draw(0)
        if self.job.halt is not None:
            self.state.stop_rows(self.job.halt(self.state.generated[:, : step + 1]))
        return self.state.report

    def _next(self, step: int) -> None:
        self.decode()
        self.draw(step)

    def decode(self) -> None:
        """Every stream's logits after the last tokens."""
        calls = [
            partial(self._branch, f"branch {index}", session, self.state.tokens)
            for index, session in enumerate(self.sessions)
        ]
        self._logits = self._in_order(side_by_side(calls, self.state.tokens.device))

    def draw(self, step: int) -> None:
        """One token a row from those logits. ``step`` matters to the caller's own processors only."""
        job, state = self.job, self.state
        edit = None if job.edit is None else partial(job.edit, state.generated[:, :step])
        with annotated("combine"):
            state.advance(draw(self._logits, state, self.vocab_size, job.return_logprobs, edit))

    def _prefill(self) -> list[Tensor]:
        outputs = []
        for backbone, session in zip(self.backbones, self.sessions, strict=True):
            outputs.append(session.prefill([self.job.prompts[stream] for stream in backbone.streams]))
        return self._in_order(outputs)

    @staticmethod
    def _branch(name: str, session: Session, tokens: Tensor) -> list[Tensor]:
        with annotated(name):
            return session.decode(tokens)

    def _in_order(self, outputs: list[list[Tensor]]) -> list[Tensor]:
        """The backbones' logits as the decoder's models stand, the base's first."""
        logits = {
            stream: rows
            for backbone, own in zip(self.backbones, outputs, strict=True)
            for stream, rows in zip(backbone.streams, own, strict=True)
        }
        return [logits[stream] for stream in range(len(self.job.prompts))]


def paths(backbones: Sequence[Backbone], captured: bool) -> str:
    """The backbones' kinds in words."""
    return "+".join(dict.fromkeys(one.kind for one in backbones)) + " (CUDA graphs)" * captured
