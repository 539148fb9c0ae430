"""Backbones and what runs on them: from a decoder's models to the run of one job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from threading import Lock

import torch

from ..models.backbone import Backbone
from ..models.plan import Plan
from ..models.transformer import FusedBackbone
from .captured import CapturedRuns
from .job import Job
from .memory import check_fit
from .run import Run


class Engine:
    """Runs jobs on the backbones of M models, the base's first. ``names`` are the models'.

    ``graphs``: capture the step on CUDA where every model runs on the fused decoder. ``max_batch_size`` and
    ``max_length`` are what a cache is made for once and for all; None where calls decide.
    """

    def __init__(
        self,
        names: tuple[str, ...],
        plan: Plan,
        vocab_size: int,
        device: torch.device,
        graphs: bool = True,
        max_batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.names = names
        self.plan = plan
        self.vocab_size = vocab_size
        self.device = device
        self.graphs = graphs and device.type == "cuda"
        self._captured = CapturedRuns(vocab_size, max_batch_size, max_length, device)
        self._captured_run = Lock()  # while it is on its way a second one would write over its buffers

    @property
    def backbones(self) -> list[Backbone]:
        return self.plan.backbones

    @property
    def kind(self) -> str:
        """Which paths run, the base's first, and whether their steps are captured."""
        paths = "+".join(dict.fromkeys(backbone.kind for backbone in self.backbones))
        return f"{paths} (CUDA graphs)" if self._captures(self.backbones) else paths

    @property
    def captures(self) -> int:
        """How many steps have been captured so far."""
        return self._captured.captures

    def lag(self, job: Job) -> int:
        """How many steps the host reads behind. The caller's own Python code, if there is any, waits for every step."""
        return int(self.device.type == "cuda" and not job.interrupts)

    @contextmanager
    def run(self, job: Job) -> Iterator[Run]:
        """Buffers for a job, given back at the end."""
        backbones = self.backbones
        if self._captures(backbones) and self._captured_run.acquire(blocking=False):
            try:
                yield self._captured.run(job, [one for one in backbones if isinstance(one, FusedBackbone)])
            finally:
                self._captured_run.release()
            return
        check_fit(backbones, job.batch, job.length, self.device)
        yield Run(job, backbones, [one.session(job.batch, job.length) for one in backbones], self.vocab_size)

    def _captures(self, backbones: Sequence[Backbone]) -> bool:
        return self.graphs and all(isinstance(backbone, FusedBackbone) for backbone in backbones)
