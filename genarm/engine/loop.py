"""The decoding loop: prefill every stream, then one step after the other until every row has finished.

The host launches step n + 1 before it reads what step n drew, so a device never waits for it; what was launched beyond
the last row's end is thrown away. On a CPU, where nothing runs beside the host, a step is read at once.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from genarm_kernels.step.rules import EOS, GOING_ON, STOP

from ..errors import GenARMError, NumericalError
from ..request.options import Request
from ..request.output import FinishReason
from .engine import Engine
from .run import Run, on_stream

# (row of the caller's batch, its new token) -> whether the row ends with it
Watch = Callable[[int, int], bool]
REASONS: dict[int, FinishReason] = {EOS: "eos", STOP: "stop"}
OF_TOKENS = ("logprobs", "model_logprobs", "guided", "log_normalizers")
LIVE = "live"  # model_logprobs while they fill, where rows are not ragged
Kept = Tensor | dict[int, Tensor]  # by row [steps, …], as long as its tokens at least


@dataclass(slots=True)
class Decoding:
    """A request in progress, and its results once ``run`` is exhausted."""

    engine: Engine
    request: Request
    watch: Watch | None = None
    tokens: list[list[int]] = field(default_factory=list)
    reasons: list[FinishReason | None] = field(default_factory=list)
    errors: dict[int, GenARMError] = field(default_factory=dict)
    kept: dict[str, Kept] = field(default_factory=dict)  # by their names in a state, what is wanted of its figures
    steps: int = 0
    prefill_seconds: float = 0.0
    decode_seconds: float = 0.0
    kind: str = ""  # the paths that ran
    row_steps: int = 0  # steps of every row that there was room for

    @property
    def tokens_read(self) -> int:
        """How many of the new tokens each model has to read: those that another one follows."""
        return sum(max(0, len(row) - 1) for row in self.tokens)

    def run(self) -> Iterator[list[list[int]]]:
        """Decode; after each step yield the tokens that each row got."""
        request = self.request
        self.tokens, self.reasons = [[] for _ in request.row_ids], [None] * request.batch
        if not request.max_new_tokens:
            self.reasons = ["length"] * request.batch
            self._keep_nothing()
            return
        started = time.perf_counter()
        cuda = request.device.type == "cuda"
        stream = torch.cuda.current_stream(request.device) if cuda else None
        with self.engine.run(request) as run:
            if run.state.model_logprobs is not None:
                self.kept[LIVE] = run.state.model_logprobs
            try:
                for report in self._reports(run, stream):
                    self.row_steps += request.batch
                    emitted = self._read(*report)
                    self._clock(time.perf_counter() - started)
                    yield emitted
                    started = time.perf_counter()
                    if all(reason is not None for reason in self.reasons):
                        break
            finally:  # once the caller has closed it, too, the buffer is the next request's
                self.kept.pop(LIVE, None)
            self._keep(run, stream)
            self.kind = run.kind

    def _reports(self, run: Run, stream: Any) -> Iterator[list[list[int]]]:
        readback = Readback(run.state.report, self.engine.lag(self.request))
        for step in range(self.request.max_new_tokens):
            with on_stream(stream):
                readback.send(run.launch(step))
            if readback.waiting > readback.lag:
                yield readback.read()
        while readback.waiting:
            yield readback.read()

    def _read(self, tokens: list[int], ends: list[int], status: list[int]) -> list[list[int]]:
        """A step's report -> the tokens that count."""
        emitted: list[list[int]] = [[] for _ in self.reasons]
        for row, token in enumerate(tokens[: len(self.reasons)]):  # beyond them are a captured step's idle rows
            if self.reasons[row] is not None:
                continue
            if status[row]:
                self._fail(row, status[row])
                continue
            emitted[row] = [token]
            self.tokens[row].append(token)
            stopped = self.watch is not None and self.watch(self.request.row_ids[row], token)
            if ends[row] != GOING_ON:
                self.reasons[row] = REASONS[ends[row]]
            elif stopped:  # the device draws on; what it draws for this row is not read
                self.reasons[row] = "stop"
            elif self.steps + 1 == self.request.max_new_tokens:
                self.reasons[row] = "length"
        return emitted

    def _fail(self, row: int, status: int) -> None:
        where = f"row {self.request.row_ids[row]}, new token {self.steps}"
        self.errors[row] = numerical_error(where, self.engine.names, status)
        self.reasons[row] = "error"

    def _keep(self, run: Run, stream: Any) -> None:
        """What the state holds of the steps beside their tokens."""
        for name in OF_TOKENS:
            found = getattr(run.state, name)
            if found is None:
                continue
            with on_stream(stream):  # the next request writes over it, and so may what is still on its way
                kept = found[:, : self.steps].clone()
                run.note_launched()
            if kept.is_cuda:  # to be read on the caller's stream of now
                kept.record_stream(torch.cuda.current_stream(kept.device))
            self.kept[name] = kept

    def _keep_nothing(self) -> None:
        """The same of no steps."""
        request, empty = self.request, torch.empty(self.request.batch, 0, device=self.request.device)
        if request.return_logprobs:
            self.kept["logprobs"] = empty
            self.kept["model_logprobs"] = empty[:, :, None].expand(-1, -1, len(request.streams))
        if request.guidance.gate is not None:
            self.kept["guided"] = empty.bool()
        if request.wants_normalizers:
            self.kept["log_normalizers"] = empty

    def _clock(self, seconds: float) -> None:
        """The first step's time is the prefill's, with its draw."""
        if self.steps == 0:
            self.prefill_seconds = seconds
        else:
            self.decode_seconds += seconds
        self.steps += 1


def numerical_error(where: str, names: Sequence[str], status: int) -> NumericalError:
    """What a step's status for a row says: models' bits, or that nothing is left to draw."""
    bad = [name for bit, name in enumerate(names) if status >> bit & 1]
    if not bad:
        return NumericalError(
            f"{where}: every token is masked out: loosen allowed_tokens, logit_bias or the processors"
        )
    return NumericalError(
        f"{where}: the logits of {' and '.join(map(repr, bad))} hold NaN or +inf: check that model's weights and dtype "
        "(float16 overflows where bfloat16 does not)"
    )


class Readback:
    """A ring of ``lag + 1`` copies of a report. The host sees step n once step n + lag has been launched."""

    @torch.inference_mode(False)  # the caller's next step may be outside of the mode this one is in
    def __init__(self, like: Tensor, lag: int) -> None:
        self.lag = lag
        pinned = like.is_cuda
        self._slots = [torch.empty(like.shape, dtype=like.dtype, pin_memory=pinned) for _ in range(lag + 1)]
        self._events = [torch.cuda.Event() if pinned else None for _ in self._slots]  # type: ignore[no-untyped-call]
        self._sent = self._read = 0

    def send(self, report: Tensor) -> None:
        """Start copying a step's report."""
        place = self._sent % len(self._slots)
        self._slots[place].copy_(report, non_blocking=True)
        event = self._events[place]
        if event is not None:
            event.record(torch.cuda.current_stream(report.device))
        self._sent += 1

    @property
    def waiting(self) -> int:
        return self._sent - self._read

    def read(self) -> list[list[int]]:
        """The oldest report not read yet."""
        place = self._read % len(self._slots)
        event = self._events[place]
        if event is not None:
            event.synchronize()
        self._read += 1
        values: list[list[int]] = self._slots[place].tolist()
        return values
