"""What changes from step to step: buffers on the device that one step reads and writes in place.

Nothing here is a Python number that a captured graph would freeze: the count of steps, the positions, seeds, weights,
filters and flags are tensors, and keep their addresses as long as the batch runs.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import torch
from torch import Tensor

import genarm_kernels
from genarm_kernels import GuidedSample, Progress
from genarm_kernels.step.accept import accept
from genarm_kernels.step.rules import ANY_TOKEN, EOS, GOING_ON, NEVER, STOP, is_over
from genarm_kernels.step.texts import FIGURES, Texts

from ..request.guidance import Guidance
from ..request.options import Request
from .population import Population, new_population
from .ragged import Ragged, new_ragged

FILL = 4


@dataclass(slots=True)
class State:
    """B rows, n tokens at most, M models, V ids. ``step`` [1] counts the tokens drawn so far."""

    guidance: Guidance
    tokens: Tensor  # [B] int64, the last ones drawn, of finished rows too
    positions: Tensor  # [B] int64, the index of the next token in the base's stream
    step: Tensor  # [1] int64
    arrived: Tensor  # [1] int32, 0 between steps
    columns: Tensor  # [n] int64, 0 … n − 1
    generated: Tensor  # [B, n] int64, ``pad_id`` where a row has finished
    reasons: Tensor  # [B] int64, how rows have ended: `step.rules` of the kernels
    report: Tensor  # [3, B] int64: tokens, reasons and status of the last step; of ragged rows that of `accept`
    eos_ids: Tensor  # [E] int64
    stops: Tensor  # [S, L] int64, aligned on the right, ANY_TOKEN on the left
    pad_id: int
    seen: Tensor | None  # [B, V] bool, kept under a repetition penalty
    logprobs: Tensor | None  # [B, n] float32
    model_logprobs: Tensor | None  # [B, n, M] float32
    guided: Tensor | None  # [B, n] bool, kept under a gate
    log_normalizers: Tensor | None  # [B, n] float32
    population: Population | None  # with particles
    ragged: Ragged | None  # where rows move on by numbers of tokens of their own

    def advance(self, sample: GuidedSample) -> None:
        """Take a step's draw: write the tokens, see which rows have finished, count on."""
        if self.population is not None:
            assert sample.log_normalizers is not None
            live = ~is_over(self.reasons, sample.status)  # type: ignore[no-untyped-call]
            self.population.weigh(sample.log_normalizers, self.reasons == GOING_ON, live)
        genarm_kernels.advance(sample, self.progress(), self.pad_id, excuse_ended=self.population is not None)

    def accept(self, sample: GuidedSample, drafts: Tensor, proposed: Tensor) -> Tensor:
        """Take what counts of ragged rows' draws, of Q places each, behind drafts [B, Q - 1] of which ``proposed`` [B]
        are there to be accepted -> how many tokens each row has taken, [B]."""
        return accept(sample, drafts, proposed, self.own_texts())

    def own_texts(self) -> Texts:
        """What ``accept`` reads and writes."""
        assert self.ragged is not None
        return Texts(
            self.ragged.texts,
            self.positions,
            self.ragged.counts,
            self.ragged.limits,
            self.tokens,
            self.reasons,
            self.report,
            *self._ends_and_figures(),
        )

    def progress(self) -> Progress:
        """What ``advance`` reads and writes."""
        return Progress(
            self.step,
            self.arrived,
            self.tokens,
            self.positions,
            self.generated,
            self.reasons,
            self.report,
            *self._ends_and_figures(),
        )

    def _ends_and_figures(self) -> tuple[Any, ...]:
        """What either tail ends rows by, and what it keeps of their tokens."""
        figures = self.logprobs, self.model_logprobs, self.log_normalizers
        return self.eos_ids, self.stops, self.seen, *figures

    def resample(self, captured: bool) -> Tensor | None:
        """Let copies of heavy particles take the places of light ones, in uneven systems that go on -> where each row's
        text comes from now, [B] int64; None where the host sees that every row keeps its own."""
        assert self.population is not None
        origins = self.population.resample(self.reasons == GOING_ON, self.step)
        if not captured and origins.device.type == "cpu" and torch.equal(origins, torch.arange(len(origins))):
            return None
        for held in self._by_row():
            held.copy_(held.index_select(0, origins))
        self.report[1].copy_(self.reasons)
        return origins

    def _by_row(self) -> list[Tensor]:
        """What belongs to the rows' texts so far."""
        assert self.population is not None
        held = [self.tokens, self.generated, self.reasons, self.population.counts]
        kept = [self.seen, self.logprobs, self.model_logprobs, self.guided, self.log_normalizers]
        return held + [one for one in kept if one is not None]

    def note_guided(self, guided: Tensor) -> None:
        """Whether the rows' next tokens, [B] bool, are guided; before ``advance``."""
        assert self.guided is not None
        column = self.step if self.ragged is None else self.ragged.counts[:, None]
        torch.where(self.columns == column, guided[:, None], self.guided, out=self.guided)

    def copied(self) -> State:
        """The same in tensors of its own, the guidance's included."""
        population = None if self.population is None else _copied(self.population)
        ragged = None if self.ragged is None else self.ragged.copied(_copied)
        own: State = _copied(replace(self, guidance=_copied(self.guidance), population=population, ragged=ragged))
        return own

    def load(self, other: State) -> None:
        """Take over another state of the same ``shapes``, value by value: the addresses stay."""
        for own, new in zip(self._tensors(), other._tensors(), strict=True):
            own.copy_(new)

    def shapes(self) -> tuple[object, ...]:
        """What two states must share for one captured step to serve both."""
        guidance = tuple(getattr(self.guidance, field.name) for field in fields(self.guidance))
        fixed = tuple(value for value in guidance if not isinstance(value, Tensor))
        present = tuple(getattr(self, field.name) is not None for field in fields(self))
        return (self.pad_id, fixed, present, tuple((tensor.shape, tensor.dtype) for tensor in self._tensors()))

    def _tensors(self) -> list[Tensor]:
        ragged = [] if self.ragged is None else self.ragged.holders()
        holders: list[Any] = [one for one in (self, self.guidance, self.population, *ragged) if one is not None]
        values = [getattr(holder, field.name) for holder in holders for field in fields(holder)]
        return [value for value in values if isinstance(value, Tensor)]

    def take(self, rows: list[int], other: State) -> None:
        """The rows of another state of ragged rows take the places of some of these."""
        where = torch.tensor(rows, device=self.tokens.device)
        for own, new in zip(self._of_rows(), other._of_rows(), strict=True):
            Q = len(new) // len(rows)
            own.index_copy_(0, (where[:, None] * Q + torch.arange(Q, device=where.device)).flatten(), new)

    def _of_rows(self) -> list[Tensor]:
        """All that belongs to ragged rows, settings too: B rows each, or B·Q."""
        assert self.ragged is not None
        held = [self.tokens, self.positions, self.reasons, self.ragged.texts, self.ragged.counts, self.ragged.limits]
        kept = [self.seen, self.logprobs, self.model_logprobs, self.guided, self.log_normalizers]
        settings = [one.of_rows() for one in (self.guidance, *self.ragged.wide.values())]
        return held + [one for one in kept if one is not None] + [value for own in settings for value in own]

    def stop_rows(self, stopped: Tensor) -> None:
        """End the rows, [B] bool, that a criterion of the caller has stopped."""
        self.reasons.masked_fill_((self.reasons == GOING_ON) & stopped, STOP)
        self.report[1].copy_(self.reasons)


def _copied(holder: Any) -> Any:
    values = {field.name: getattr(holder, field.name) for field in fields(holder)}
    tensors = {name: value for name, value in values.items() if isinstance(value, Tensor)}
    return replace(
        holder, **{name: value.clone(memory_format=torch.contiguous_format) for name, value in tensors.items()}
    )


@torch.inference_mode(False)  # the caller's next step may be outside of the mode this one is in
def new_state(request: Request, width: int | None = None, length: int = 0, places: Sequence[int] = ()) -> State:
    """The buffers of a request's steps as they are before the first one. ``width``: tokens that they hold, where that
    is more than the request's own. Of ragged rows: texts of ``length`` tokens, and draws at so many ``places``."""
    guidance, prompts, device = request.guidance, request.streams[0].rows, request.device
    lengths = torch.tensor([len(row) for row in prompts], device=device)
    longest = -(-max(map(len, request.stop), default=0) // FILL) * FILL
    stops = [[ANY_TOKEN] * (longest - len(entry)) + list(entry) for entry in request.stop]
    stops = _filled(stops, [NEVER] * longest)
    # Rows that have ended draw on, and what they draw falls behind their last column.
    spare = request.ahead + 1 if request.ragged else 0
    shape = (request.batch, (width or request.max_new_tokens) + spare)

    def unknown(wanted: bool, *shape: int) -> Tensor | None:
        return torch.full(shape, torch.nan, dtype=torch.float32, device=device) if wanted else None

    reasons = torch.full_like(lengths, GOING_ON)
    reasons[len(request.row_ids) :] = EOS  # idle rows, there to fill a captured step's batch
    state = State(
        guidance=guidance,
        tokens=torch.zeros_like(lengths),
        positions=lengths,
        step=torch.zeros(1, dtype=torch.int64, device=device),
        arrived=torch.zeros(1, dtype=torch.int32, device=device),
        columns=torch.arange(shape[1], device=device),
        generated=torch.full((request.batch, 0) if request.ragged else shape, request.pad_id, device=device),
        reasons=reasons,
        report=torch.zeros(
            request.ahead + 1 + FIGURES if request.ragged else 3, request.batch, dtype=torch.int64, device=device
        ),
        eos_ids=torch.tensor(_filled(sorted(request.eos_ids), NEVER), dtype=torch.int64, device=device),
        stops=torch.tensor(stops, dtype=torch.int64, device=device).view(len(stops), longest),
        pad_id=request.pad_id,
        seen=_seen(guidance, prompts, request.vocab_size),
        logprobs=unknown(request.return_logprobs, *shape),
        model_logprobs=unknown(request.return_logprobs, *shape, len(request.streams)),
        guided=None if guidance.gate is None else torch.zeros(shape, dtype=torch.bool, device=device),
        log_normalizers=unknown(request.wants_normalizers, *shape),
        population=_population(request, shape[1]),
        ragged=new_ragged(request, length, places) if request.ragged else None,
    )
    (state.own_texts() if request.ragged else state.progress()).checked()
    return state


def _population(request: Request, width: int) -> Population | None:
    if request.particles is None:
        return None
    limit = request.max_new_tokens
    return new_population(request.particles, request.guidance.seeds, len(request.row_ids), limit, width)


def _filled(entries: list[Any], filling: Any) -> list[Any]:
    """A multiple of FILL entries, so that states seldom differ in their shapes."""
    return entries + [filling] * (-len(entries) % FILL)


def _seen(guidance: Guidance, prompts: list[Tensor], vocab_size: int) -> Tensor | None:
    """Which ids each prompt holds, [B, V] bool, if repetitions are penalised at all."""
    penalty = guidance.repetition_penalty
    if isinstance(penalty, float) and penalty == 1.0:
        return None
    # Prompts may hold ids that are not drawn: they go to a column behind the others.
    ids = torch.cat(prompts).clamp(max=vocab_size)
    rows = torch.arange(len(prompts)).repeat_interleave(torch.tensor([len(prompt) for prompt in prompts]))
    seen = torch.zeros(len(prompts), vocab_size + 1, dtype=torch.bool, device=ids.device)
    seen.view(-1).index_fill_(0, rows.to(ids.device) * (vocab_size + 1) + ids, True)
    return seen[:, :vocab_size]
