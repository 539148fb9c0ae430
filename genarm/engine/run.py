"""One batch on its backbones: sessions, state, and the step over them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from ..guidance import Guidance
from ..models.backbone import Backbone, Session
from .ranges import annotated
from .state import State, new_state
from .step import draw

# (generated so far [B, t], combined scores s [B, V]) -> edited scores [B, V]
Edit = Callable[[Tensor, Tensor], Tensor]
# generated so far [B, t] -> rows to stop, [B] bool
Halt = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Job:
    """One batch to decode: B rows, M streams. ``row_ids`` are the rows' numbers in the caller's batch."""

    prompts: list[list[Tensor]]  # [M][B], 1-D int64 each
    guidance: Guidance
    max_new_tokens: int
    pad_id: int
    row_ids: list[int]
    eos_ids: frozenset[int] = frozenset()
    stop: tuple[tuple[int, ...], ...] = ()
    return_logprobs: bool = False
    edit: Edit | None = None
    halt: Halt | None = None

    @property
    def batch(self) -> int:
        return len(self.row_ids)

    @property
    def length(self) -> int:
        """Tokens a slot has to hold, that of a step launched before the last one was read included."""
        return max(len(row) for rows in self.prompts for row in rows) + self.max_new_tokens + 1


class Run:
    """A job on its way. Every step is launched without waiting for the one before."""

    def __init__(self, job: Job, backbones: list[Backbone], vocab_size: int) -> None:
        self.job = job
        self.backbones = backbones
        self.vocab_size = vocab_size
        self.sessions: list[Session] = [backbone.session(job.batch, job.length) for backbone in backbones]
        self.state: State = new_state(
            job.guidance,
            job.prompts[0],
            job.max_new_tokens,
            len(job.prompts),
            vocab_size,
            job.pad_id,
            job.eos_ids,
            job.stop,
            job.return_logprobs,
        )

    @torch.no_grad()
    def launch(self, step: int) -> Tensor:
        """Run one step -> its report [3, B] on the device, overwritten by the next."""
        with annotated("step" if step else "prefill"):
            logits = self._decode() if step else self._prefill()
            with annotated("combine"):
                self._draw(logits, step)
        if self.job.halt is not None:
            self.state.stop_rows(self.job.halt(self.state.generated[:, : step + 1]))
        return self.state.report

    def _draw(self, logits: list[Tensor], step: int) -> None:
        job, state = self.job, self.state
        edit = job.edit

        def edit_scores(scores: Tensor) -> Tensor:
            assert edit is not None
            return edit(state.generated[:, :step], scores)

        sample = draw(logits, state, self.vocab_size, job.return_logprobs, edit_scores if edit else None)
        state.advance(sample)

    def _prefill(self) -> list[Tensor]:
        outputs = []
        for backbone, session in zip(self.backbones, self.sessions, strict=True):
            outputs.append(session.prefill([self.job.prompts[stream] for stream in backbone.streams]))
        return self._in_order(outputs)

    def _decode(self) -> list[Tensor]:
        outputs = []
        for index, session in enumerate(self.sessions):
            with annotated(f"branch {index}"):
                outputs.append(session.decode(self.state.tokens))
        return self._in_order(outputs)

    def _in_order(self, outputs: list[list[Tensor]]) -> list[Tensor]:
        """The backbones' logits as the decoder's models stand, the base's first."""
        logits: list[Tensor | None] = [None] * len(self.job.prompts)
        for backbone, own in zip(self.backbones, outputs, strict=True):
            for stream, rows in zip(backbone.streams, own, strict=True):
                logits[stream] = rows
        assert all(rows is not None for rows in logits)
        return logits  # type: ignore[return-value]
