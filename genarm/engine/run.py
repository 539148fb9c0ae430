"""One batch on its backbones: sessions, state, and the step over them.

A step is every backbone's forward pass, beside each other where a graph is captured, and one draw from the guided
distribution: the models' logits in, one token per row out. Profilers see both under names of their own.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from functools import lru_cache, partial
from typing import Any

import torch
from torch import Tensor

import genarm_kernels

from ..models.backbone import Backbone, Session
from .job import Job
from .state import State


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


# combined scores s [B, V] -> edited scores [B, V]
ScoreEdit = Callable[[Tensor], Tensor]


def combined_scores(logits: list[Tensor], weights: Tensor, bias: Tensor | None, vocab_size: int) -> Tensor:
    """s = bias + Σ w_m z_m, [B, V] float32, un-normalised; −inf where the base or any weighted model has −inf."""
    excluded = logits[0][:, :vocab_size] == -math.inf
    scores = torch.zeros_like(excluded, dtype=torch.float32)
    for index, row in enumerate(logits):
        z = row[:, :vocab_size].float()
        weight = weights[:, index, None]
        excluded |= (weight != 0) & (z == -math.inf)
        scores += torch.where(weight != 0, weight * z, 0.0)
    if bias is not None:
        scores += bias
    return scores.masked_fill(excluded, -math.inf)


def bad_models(logits: list[Tensor], weights: Tensor, vocab_size: int) -> Tensor:
    """[B] int32: bit m where model m has a weight, and NaN or +inf among its logits."""
    status = torch.zeros(len(weights), dtype=torch.int32, device=weights.device)
    for index, row in enumerate(logits):
        bad = ~(row[:, :vocab_size].amax(1) < math.inf) & (weights[:, index] != 0)
        status |= bad.to(torch.int32) << index
    return status


def repetition_penalty(scores: Tensor, seen: Tensor, penalty: float | Tensor) -> Tensor:
    """Scores of tokens already ``seen`` [B, V] divided by the penalty where positive, multiplied where negative.

    Source: Keskar et al. 2019 (CTRL), as in Hugging Face's RepetitionPenaltyLogitsProcessor.
    """
    factor = penalty[:, None] if isinstance(penalty, Tensor) else penalty
    return torch.where(seen, torch.where(scores < 0, scores * factor, scores / factor), scores)


def draw(
    logits: list[Tensor], state: State, vocab_size: int, return_logprobs: bool = False, edit: ScoreEdit | None = None
) -> genarm_kernels.GuidedSample:
    """One token a row from M logits [B, V_m]. ``edit`` acts on the combined scores, as Hugging Face's processors do."""
    guidance = state.guidance
    weights, bias = guidance.weights, guidance.bias
    edits = state.seen is not None or edit is not None
    if edits:  # the edited scores stand for the whole combination
        weights, bias = torch.zeros_like(weights), _edited(logits, state, vocab_size, edit)
    sample = genarm_kernels.guided_sample(
        logits,
        weights,
        bias=bias,
        seed=guidance.seeds,
        position=state.positions,
        return_logprobs=return_logprobs,
        vocab_size=vocab_size,
        **guidance.filters,
    )
    if edits:
        sample = sample._replace(status=sample.status | bad_models(logits, guidance.weights, vocab_size))
    return sample


def _edited(logits: list[Tensor], state: State, vocab_size: int, edit: ScoreEdit | None) -> Tensor:
    """[B, V] float32 scores after the caller's bias, penalties and edits; what was excluded stays so."""
    guidance = state.guidance
    scores = edited = combined_scores(logits, guidance.weights, guidance.bias, vocab_size)
    if state.seen is not None:
        edited = repetition_penalty(edited, state.seen, guidance.repetition_penalty)
    if edit is not None:
        edited = edit(edited.clone())
    # +inf from a processor means "this one"; the sampler takes finite scores.
    highest = torch.finfo(torch.float32).max
    return edited.float().clamp(max=highest).masked_fill(scores == -math.inf, -math.inf)


Branch = Callable[[], list[Tensor]]


def side_by_side(branches: Sequence[Branch], device: torch.device) -> list[list[Tensor]]:
    """Each branch's result. While a graph is captured each has a CUDA stream of its own, joined at the end.

    Elsewhere one follows the other: between streams of a running program the allocator would have to be told of every
    tensor that changes hands, and without a graph the host launches them one by one anyway.
    """
    if len(branches) == 1 or device.type != "cuda" or not torch.cuda.is_current_stream_capturing():
        return [branch() for branch in branches]
    main = torch.cuda.current_stream(device)
    sides = _streams(device.index or 0, len(branches) - 1)
    results: list[list[Tensor]] = []
    for branch, side in zip(branches[1:], sides, strict=True):
        side.wait_stream(main)
        with torch.cuda.stream(side):
            results.append(branch())
    first = branches[0]()
    for side in sides:
        main.wait_stream(side)
    return [first, *results]


@lru_cache(maxsize=16)
def _streams(device: int, count: int) -> list[Any]:
    return [torch.cuda.Stream(device) for _ in range(count)]  # type: ignore[no-untyped-call]


def annotated(name: str) -> AbstractContextManager[Any]:
    """A range called ``name`` in the timeline of whatever profiler is watching; nothing without one."""
    if torch._C._autograd._profiler_enabled():
        return torch.profiler.record_function(name)
    if torch.cuda.is_available():
        return torch.cuda.nvtx.range(name)
    return nullcontext()
