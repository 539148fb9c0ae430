"""The decoding loop of rows that move on by numbers of tokens of their own.

A step gives a row as many tokens as its draft was right for, and one more. Where there are more rows than places to
decode them in, the next prompt takes the place of a row that has ended, and is read beside the steps of the others.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any

import torch

from genarm_kernels.step.rules import GOING_ON
from genarm_kernels.step.texts import FIGURES

from .loop import OF_TOKENS, REASONS, Decoding, Readback, numerical_error
from .run import Run, on_stream


@dataclass(slots=True)
class Sent:
    """A report on its way to the host: the slot and row of each of its columns, and how many drafts the step had.
    One that ``admits`` rows is a pass over their prompts."""

    readback: Readback
    columns: list[tuple[int, int]]
    gamma: int
    admits: bool = False
    proposed: int = 0
    accepted: int = 0


@dataclass(slots=True)
class RaggedDecoding(Decoding):
    """A request of ragged rows in progress, in so many ``slots``."""

    slots: int = 0
    sent: deque[Sent] = field(default_factory=deque)
    waiting: deque[int] = field(default_factory=deque)
    stopped: set[int] = field(default_factory=set)  # by their texts, with their last token
    counts: list[list[int]] = field(default_factory=list)  # of each row: drafted, accepted, steps with drafts

    def run(self) -> Iterator[list[list[int]]]:
        """Decode; after each step yield the tokens that each row got."""
        request = self.request
        self.tokens, self.reasons = [[] for _ in request.row_ids], [None] * request.batch
        self.counts = [[0, 0, 0] for _ in request.row_ids]
        if not request.max_new_tokens:
            self.reasons = ["length"] * request.batch
            self._keep_nothing()
            return
        started = time.perf_counter()
        stream = torch.cuda.current_stream(request.device) if request.device.type == "cuda" else None
        self.waiting.extend(range(request.batch))
        while self.waiting:  # again where a path cannot exchange rows
            owners = self._next_rows(self.slots)
            with self.engine.run(request.rows(owners)) as run:
                for sent in self._steps_of(run, stream, owners):
                    emitted = self._take(run, stream, sent)
                    seconds = time.perf_counter() - started
                    if sent.admits:
                        self.prefill_seconds += seconds
                    else:
                        self._tell(run, sent, seconds)
                        self._clock(seconds)
                    yield emitted
                    started = time.perf_counter()
                self.kind = run.kind

    def _next_rows(self, count: int) -> list[int]:
        return [self.waiting.popleft() for _ in range(min(count, len(self.waiting)))]

    def _steps_of(self, run: Run, stream: Any, owners: list[int]) -> Iterator[Sent]:
        """Launch steps until no row is left -> each one's report. ``owners``: the row that each slot has."""
        lag, step = self.engine.lag(self.request), 0
        readback = Readback(run.state.report, lag)
        while True:
            with on_stream(stream):
                run.gamma = run.policy.gamma if run.exchanges else 0  # nothing is drafted where no cache can be cut
                readback.send(run.launch(step))
            self.sent.append(Sent(readback, list(enumerate(owners)), run.gamma * (step > 0)))
            self.row_steps += len(owners)
            step += 1
            while True:
                while self.sent and (len(self.sent) > lag or not any(map(self._is_open, owners))):
                    yield self.sent.popleft()
                free = [slot for slot, row in enumerate(owners) if not self._is_open(row)]
                if not (self.waiting and free and run.exchanges):
                    break
                self._admit(run, stream, free, owners)
            if len(free) == len(owners):
                return

    def _tell(self, run: Run, sent: Sent, seconds: float) -> None:
        """The policy learns of a step, but for the first, which read the prompts."""
        if self.steps:
            run.policy.note(sent.gamma, sent.proposed, sent.accepted, seconds)

    def _is_open(self, row: int) -> bool:
        return self.reasons[row] is None

    def _admit(self, run: Run, stream: Any, free: list[int], owners: list[int]) -> None:
        """The next prompts take free slots."""
        columns = list(zip(free, self._next_rows(len(free)), strict=False))
        for slot, row in columns:
            owners[slot] = row
        with on_stream(stream):
            fresh = run.admit([slot for slot, _ in columns], self.request.rows([row for _, row in columns]))
            readback = Readback(fresh.report, 0)
            readback.send(fresh.report)
        self.sent.append(Sent(readback, columns, 0, admits=True))
        self.row_steps += len(columns)

    def _take(self, run: Run, stream: Any, sent: Sent) -> list[list[int]]:
        """A step's report -> the tokens that count, by row."""
        report = sent.readback.read()
        emitted: list[list[int]] = [[] for _ in self.reasons]
        figures = report[-FIGURES:]
        for column, (slot, row) in enumerate(sent.columns):
            if not self._is_open(row):
                continue
            taken, accepted, proposed, reason, status = (one[column] for one in figures)
            sent.proposed += proposed
            sent.accepted += accepted
            emitted[row] = self._read_row(row, [draws[column] for draws in report[:taken]])
            new = proposed, accepted, int(sent.gamma > 0)
            self.counts[row] = [old + one for old, one in zip(self.counts[row], new, strict=True)]
            self._end_row(row, reason, status)
            if not self._is_open(row):
                self._keep_row(run, stream, row, slot)
        return emitted

    def _read_row(self, row: int, draws: list[int]) -> list[int]:
        """Those of a row's new tokens that count: none behind one that the caller's text ends with."""
        for place, token in enumerate(draws):
            self.tokens[row].append(token)
            if self.watch is not None and self.watch(self.request.row_ids[row], token):
                if place + 1 < len(draws):
                    self.reasons[row] = "stop"
                    return draws[: place + 1]
                self.stopped.add(row)  # what the device says of the last one goes before
        return draws

    def _end_row(self, row: int, reason: int, status: int) -> None:
        """How the row has ended, if it has."""
        if self._is_open(row):
            if status:
                self._fail(row, status)
            elif reason != GOING_ON:
                self.reasons[row] = REASONS[reason]
            elif row in self.stopped:
                self.reasons[row] = "stop"
            elif len(self.tokens[row]) == self.request.max_new_tokens:
                self.reasons[row] = "length"

    def _fail(self, row: int, status: int) -> None:
        where = f"row {self.request.row_ids[row]}, new token {len(self.tokens[row])}"
        self.errors[row] = numerical_error(where, self.engine.names, status)
        self.reasons[row] = "error"

    def _keep_row(self, run: Run, stream: Any, row: int, slot: int) -> None:
        """What the state holds of a row's tokens, before another takes its slot."""
        for name in OF_TOKENS:
            found = getattr(run.state, name)
            if found is not None:
                with on_stream(stream):
                    own = found[slot, : len(self.tokens[row])].clone()
                    run.note_launched()
                if own.is_cuda:  # to be read on the caller's stream of now
                    own.record_stream(torch.cuda.current_stream(own.device))
                rows = self.kept.setdefault(name, {})
                assert isinstance(rows, dict)
                rows[row] = own
