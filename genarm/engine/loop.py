"""The decoding loop: prefill every stream, then draw, append and step until every row has finished."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import torch
from torch import Tensor

import genarm_kernels

from ..errors import GenARMError, NumericalError
from ..guidance import Guidance
from ..models.hf import HFModel, HFStream, evaluating, submodules
from ..output import FinishReason
from .step import Sampler, ScoreEdit

# generated so far [B, t] -> rows to stop, [B] bool
Halt = Callable[[Tensor], Tensor]


@dataclass(frozen=True, slots=True)
class Job:
    """One batch to decode: B rows, M streams. ``row_ids`` are the rows' numbers in the caller's batch."""

    models: list[HFModel]
    prompts: list[list[Tensor]]  # [M][B], 1-D int64 each
    guidance: Guidance
    max_new_tokens: int
    vocab_size: int
    pad_id: int
    row_ids: list[int]
    eos_ids: frozenset[int] = frozenset()
    stop: tuple[tuple[int, ...], ...] = ()
    return_logprobs: bool = False
    edit: ScoreEdit | None = None
    halt: Halt | None = None


@dataclass(slots=True)
class Decoding:
    """A job in progress, and its results once ``run`` is exhausted."""

    job: Job
    tokens: list[list[int]] = field(default_factory=list)
    reasons: list[FinishReason | None] = field(default_factory=list)
    errors: dict[int, GenARMError] = field(default_factory=dict)
    logprobs: list[Tensor] = field(default_factory=list)  # one [B] a step
    model_logprobs: list[Tensor] = field(default_factory=list)  # one [B, M] a step
    steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0

    def run(self) -> Iterator[list[int | None]]:
        """Decode; after each step yield the token each row got, or None."""
        job = self.job
        batch = len(job.row_ids)
        self.tokens, self.reasons = [[] for _ in range(batch)], [None] * batch
        if not job.max_new_tokens:
            self.reasons = ["length"] * batch
            return
        started = time.perf_counter()
        streams = [model.stream(rows) for model, rows in zip(job.models, job.prompts, strict=True)]
        parts = submodules(job.models)
        sampler = Sampler(job.guidance, job.vocab_size, job.return_logprobs, job.edit)
        sampler.remember_prompts(job.prompts[0])
        device = job.prompts[0][0].device
        lengths = torch.tensor([len(row) for row in job.prompts[0]], device=device)
        generated = torch.full((len(job.row_ids), job.max_new_tokens), job.pad_id, device=device)
        for step in range(job.max_new_tokens):
            with evaluating(parts):  # not across a yield: between steps the models are as the caller left them
                drawn, emitted = self._step(streams, sampler, lengths + step, generated, step)
            now = time.perf_counter()
            self._clock(now - started)
            yield emitted
            started = time.perf_counter()
            if all(reason is not None for reason in self.reasons):
                return
            for stream in streams:
                stream.append(drawn)

    def _step(
        self, streams: list[HFStream], sampler: Sampler, position: Tensor, generated: Tensor, step: int
    ) -> tuple[Tensor, list[int | None]]:
        """-> the drawn tokens [B], of finished rows too, and those that count."""
        sample = sampler.draw([stream.logits() for stream in streams], position, generated[:, :step])
        tokens, status = torch.stack([sample.tokens, sample.status.long()]).tolist()
        emitted: list[int | None] = [None] * len(tokens)
        for row, token in enumerate(tokens):
            if self.reasons[row] is not None:
                continue
            if status[row]:
                self._fail(row, status[row], step)
                continue
            emitted[row] = token
            self.tokens[row].append(token)
            self.reasons[row] = self._reason(row, token, step)
        live = torch.tensor([token is not None for token in emitted], device=generated.device)
        generated[:, step] = torch.where(live, sample.tokens, self.job.pad_id)
        self._keep_logprobs(sample, live)
        self._halt(generated[:, : step + 1])
        return sample.tokens, emitted

    def _reason(self, row: int, token: int, step: int) -> FinishReason | None:
        job = self.job
        if token in job.eos_ids:
            return "eos"
        if any(tuple(self.tokens[row][-len(stop) :]) == stop for stop in job.stop):
            return "stop"
        return "length" if step + 1 == job.max_new_tokens else None

    def _fail(self, row: int, status: int, step: int) -> None:
        names = [model.name for bit, model in enumerate(self.job.models) if status >> bit & 1]
        where = f"row {self.job.row_ids[row]}, new token {step}"
        if names:
            text = (
                f"{where}: the logits of {' and '.join(map(repr, names))} hold NaN or +inf: check that model's weights "
            )
            text += "and dtype (float16 overflows where bfloat16 does not)"
        else:
            text = f"{where}: every token is masked out: loosen allowed_tokens, logit_bias or the processors"
        self.errors[row] = NumericalError(text)
        self.reasons[row] = "error"

    def _keep_logprobs(self, sample: genarm_kernels.GuidedSample, live: Tensor) -> None:
        if sample.logprobs is not None and sample.model_logprobs is not None:
            self.logprobs.append(sample.logprobs.masked_fill(~live, torch.nan))
            self.model_logprobs.append(sample.model_logprobs.masked_fill(~live[:, None], torch.nan))

    def _halt(self, generated: Tensor) -> None:
        """Ask the caller's stopping criteria."""
        if self.job.halt is None:
            return
        for row, stopped in enumerate(self.job.halt(generated).tolist()):
            if stopped and self.reasons[row] is None:
                self.reasons[row] = "stop"

    def _clock(self, seconds: float) -> None:
        """The first step's time is the prefill's, with its draw."""
        if self.steps == 0:
            self.prefill_seconds = seconds
        else:
            self.decode_seconds += seconds
        self.steps += 1
