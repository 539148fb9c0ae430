"""Runs a request chunk by chunk and gathers what its rows came to."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from ..errors import GenARMError
from ..request.options import Request
from ..request.output import FinishReason, GenerationOutput, GenerationStats, StreamStep
from .job import slot_length
from .loop import Decoding

if TYPE_CHECKING:
    from ..decoder import GuidedDecoder


class Batch:
    """One request while it is decoded: chunks of ``max_batch_size`` rows, one after the other."""

    def __init__(self, decoder: GuidedDecoder, request: Request) -> None:
        rows = [row for row in range(len(request.prompts.rows)) if row not in request.errors]
        if not rows:
            raise _all_failed(request.errors)
        size = decoder.max_batch_size
        self.decoder = decoder
        self.request = request
        self.chunks = [rows[start : start + size] for start in range(0, len(rows), size)]
        self.done: list[Decoding] = []

    def steps(self) -> Iterator[StreamStep]:
        """Decode to the end, one StreamStep a step of a chunk."""
        batch = len(self.request.prompts.rows)
        with torch.inference_mode(False):  # the caller's next step may be outside of the mode this one is in
            finished = torch.zeros(batch, dtype=torch.bool)
        finished[list(self.request.errors)] = True
        if len(self.chunks) > 1:  # one that would not fit is said before the others run
            self.decoder.engine.check([self._size(rows) for rows in self.chunks])
        for rows in self.chunks:
            decoding = Decoding(self.decoder.engine, self.request.job(self.decoder, rows))
            self.done.append(decoding)
            for emitted in decoding.run():
                tokens = [torch.empty(0, dtype=torch.int64)] * batch
                for row, token in zip(rows, emitted, strict=True):
                    if token is not None:
                        tokens[row] = torch.tensor([token])
                finished[rows] = torch.tensor([reason is not None for reason in decoding.reasons])
                yield StreamStep(tokens, finished.clone())
        errors = self.errors()
        if len(errors) == batch:
            raise _all_failed(errors)

    def _size(self, rows: list[int]) -> tuple[int, int]:
        """Sequences and tokens that a chunk's cache holds."""
        longest = max(len(stream.rows[row]) for stream in self.request.streams for row in rows)
        return len(rows), slot_length(longest, self.request.max_new_tokens)

    def errors(self) -> dict[int, GenARMError]:
        """The error of each failed row, prompts and decoding together."""
        errors = dict(self.request.errors)
        for rows, decoding in zip(self.chunks, self.done, strict=False):
            errors.update({rows[index]: error for index, error in decoding.errors.items()})
        return dict(sorted(errors.items()))

    def output(self) -> GenerationOutput:
        """The results, once every step has run."""
        request, device = self.request, self.decoder.device
        batch = len(request.prompts.rows)
        tokens = [torch.empty(0, dtype=torch.int64, device=device) for _ in range(batch)]
        reasons: list[FinishReason] = ["error"] * batch
        for rows, decoding in zip(self.chunks, self.done, strict=True):
            for row, generated, reason in zip(rows, decoding.tokens, decoding.reasons, strict=True):
                tokens[row] = torch.tensor(generated, dtype=torch.int64, device=device)
                reasons[row] = reason or "error"
        width = max(len(row) for row in tokens)
        new = torch.full((batch, width), request.pad_id, device=device)
        for index, ids in enumerate(tokens):
            new[index, : len(ids)] = ids
        logprobs, model_logprobs = self._logprobs(batch, width)
        return GenerationOutput(
            sequences=torch.cat([request.prompts.columns, new], dim=1),
            tokens=tokens,
            finish_reasons=reasons,
            errors=self.errors(),
            stats=self._stats(sum(len(row) for row in tokens)),
            logprobs=logprobs,
            model_logprobs=model_logprobs,
            model_names=tuple(model.name for model in self.decoder.models),
        )

    def _logprobs(self, batch: int, width: int) -> tuple[Tensor | None, Tensor | None]:
        if not self.request.return_logprobs:
            return None, None
        device, models = self.decoder.device, len(self.decoder.models)
        logprobs = torch.full((batch, width), torch.nan, dtype=torch.float32, device=device)
        model_logprobs = torch.full((batch, width, models), torch.nan, dtype=torch.float32, device=device)
        for rows, decoding in zip(self.chunks, self.done, strict=True):
            if decoding.logprobs is None or decoding.model_logprobs is None:
                continue
            for index, row in enumerate(rows):
                count = len(decoding.tokens[index])
                logprobs[row, :count] = decoding.logprobs[index, :count]
                model_logprobs[row, :count] = decoding.model_logprobs[index, :count]
        return logprobs, model_logprobs

    def _stats(self, new_tokens: int) -> GenerationStats:
        return GenerationStats(
            prompt_tokens=sum(len(self.request.prompts.rows[row]) for rows in self.chunks for row in rows),
            new_tokens=new_tokens,
            steps=sum(decoding.steps for decoding in self.done),
            prefill_seconds=sum(decoding.prefill_seconds for decoding in self.done),
            decode_seconds=sum(decoding.decode_seconds for decoding in self.done),
            engine=next((one.kind for one in self.done if one.kind), "") or self.decoder.engine.kind,
        )


def _all_failed(errors: dict[int, GenARMError]) -> GenARMError:
    """The first row's error, carrying every row's."""
    first = next(iter(errors.values()))
    return type(first)(str(first), rows=errors)
