"""The decoding loop of rows that are particles: they take each other's texts, which are therefore read at the end."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import torch
from torch import Tensor

from genarm_kernels.step.rules import ERROR

from ..errors import GenARMError, NumericalError
from ..request.detokenize import RowText
from ..request.options import Request
from .loop import REASONS, Decoding, numerical_error
from .run import Run, on_stream

MODEL_BITS = 255  # of a status
MOST_WEIGHT = 1e30  # in nats; beyond it is what a draw has in the place of +inf
ENDS = {**REASONS, ERROR: "error"}


@dataclass(slots=True)
class SystemDecoding(Decoding):
    """P systems in progress, N rows each. A system of which one particle's logits are no numbers fails as a whole; a
    particle for which nothing is left to draw is there with a weight of 0."""

    log_weights: Tensor | None = None  # [P, N] float64 on the CPU, since the last resampling
    log_evidence: Tensor | None = None  # [P], of the resamplings so far
    failed: dict[int, GenARMError] = field(default_factory=dict)  # by system
    read: int = 0

    def __post_init__(self) -> None:
        if self.request.stop_texts and self.request.decode is not None:
            self.request = replace(self.request, halt=StopTexts(self.request))

    @property
    def tokens_read(self) -> int:
        """Of all particles, those that others have replaced included."""
        return self.read

    @property
    def count(self) -> int:
        """N."""
        assert self.request.particles is not None
        return self.request.particles.count

    def _read(self, tokens: list[int], ends: list[int], status: list[int]) -> list[list[int]]:
        rows, is_last = len(self.reasons), self.steps + 1 == self.request.max_new_tokens
        for row in range(rows):
            if bits := status[row] & MODEL_BITS:
                self._fail(row, bits)
            reason: Any = ENDS.get(ends[row], "length" if is_last else None)
            self.reasons[row] = "error" if row // self.count in self.failed else reason
        self.read += self.reasons.count(None)
        return [[] for _ in self.reasons]

    def _fail(self, row: int, status: int) -> None:
        system, particle = divmod(self.request.row_ids[row], self.count)
        where = f"prompt {system}, particle {particle}, new token {self.steps}"
        self.failed.setdefault(row // self.count, numerical_error(where, self.engine.names, status))

    def _keep(self, run: Run, stream: Any) -> None:
        super(SystemDecoding, self)._keep(run, stream)
        population, rows = run.state.population, len(self.reasons)
        assert population is not None
        with on_stream(stream):
            # Copies on a CPU too: the next chunk's captured steps have these buffers.
            kept = (one.to("cpu", copy=True) for one in (population.log_weights, population.log_evidence))
            self.log_weights, self.log_evidence = kept
            generated, counts = run.state.generated[:rows].tolist(), population.counts[:rows].tolist()
        for system, weights in enumerate(self.log_weights + self.log_evidence[:, None]):
            where = f"prompt {self.request.row_ids[system * self.count] // self.count}, all particles"
            if bool((weights == -torch.inf).all()):
                self.failed.setdefault(system, numerical_error(where, (), 1 << 8))
            elif not bool((weights < MOST_WEIGHT).all()):
                why = "a processor gave +inf, by which none can be weighed: let it mask the others"
                self.failed.setdefault(system, NumericalError(f"{where}: {why}"))
        for row in range(rows):
            if error := self.failed.get(row // self.count):
                self.errors[row], self.reasons[row], counts[row] = error, "error", 0
            self.tokens[row] = generated[row][: counts[row]]


class StopTexts:
    """Which rows' texts have come to hold a stop string, beside what the caller stops: a request's ``halt``."""

    def __init__(self, request: Request) -> None:
        assert request.particles is not None and request.decode is not None
        self._count, self._caller = request.particles.count, request.halt
        self._known: dict[tuple[int, tuple[int, ...]], RowText] = {}  # by system and tokens
        prompts = request.streams[0].host[:: self._count]
        for system, prompt in enumerate(prompts):
            self._known[system, ()] = RowText(request.decode, prompt.tolist(), request.stop_texts)

    def __call__(self, generated: Tensor) -> Tensor:
        """Tokens so far [R, t] -> [R] bool."""
        stopped = [self._text(row // self._count, ids).stopped for row, ids in enumerate(generated.tolist())]
        self._known = {key: text for key, text in self._known.items() if len(key[1]) == generated.shape[1]}
        found = torch.tensor(stopped, device=generated.device)
        return found if self._caller is None else found | self._caller(generated)

    def _text(self, system: int, ids: Sequence[int]) -> RowText:
        """Of ``ids``, which are one more than those of a row that was there a step ago."""
        key = system, tuple(ids)
        if key not in self._known:
            text = self._known[system, key[1][:-1]].fork()
            if not text.stopped:
                text.push(ids[-1])
            self._known[key] = text
        return self._known[key]
