"""Backbones and what runs on them: from a decoder's models to the run of one job."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager

import torch

from ..models.backbone import Backbone
from ..models.causal import CausalModel
from ..models.fused.network import FusedBackbone
from ..models.plan import Plan
from .graphs import CapturedRuns, cache_size
from .job import Job
from .memory import cache_bytes, check_fit
from .run import Run, paths

CAPTURING_DEVICES = {"cuda"}


class Engine:
    """Runs jobs on the backbones of M models, the base's first.

    ``graphs``: capture the step on CUDA where every model runs on the fused decoder. ``max_batch_size`` and
    ``max_length`` are what a cache is made for once and for all; None where calls decide.
    """

    def __init__(
        self,
        models: Sequence[CausalModel],
        plan: Plan,
        vocab_size: int,
        graphs: bool = True,
        max_batch_size: int | None = None,
        max_length: int | None = None,
    ) -> None:
        self.names = tuple(model.name for model in models)
        self.plan = plan
        self.vocab_size = vocab_size
        self.graphs = graphs
        self._base = models[0]
        self._captured = CapturedRuns(vocab_size, max_batch_size, max_length)

    @property
    def backbones(self) -> list[Backbone]:
        return self.plan.backbones

    @property
    def device(self) -> torch.device:
        """Where the models are now."""
        return self._base.device

    @property
    def kind(self) -> str:
        """Which paths a job takes, the base's first, and whether its steps are captured."""
        return paths(self.backbones, bool(self._capturable(self.backbones)))

    @property
    def captures(self) -> int:
        """How many steps have been captured so far."""
        return self._captured.captures

    def lag(self, job: Job) -> int:
        """How many steps the host reads behind. The caller's own Python code, if there is any, waits for every step."""
        return int(job.device.type == "cuda" and not job.interrupts)

    def check(self, sizes: Sequence[tuple[int, int]]) -> None:
        """Raise CacheMemoryError where a job of one of these sizes, sequences and tokens, would not fit."""
        backbones = self.backbones
        captured = bool(self._capturable(backbones))
        needed = [cache_size(*size) for size in sizes] if captured else sizes
        largest = max(needed, key=lambda size: cache_bytes(backbones, *size))
        check_fit(backbones, *largest, self.device, self._captured.held_bytes)

    @contextmanager
    def run(self, job: Job) -> Iterator[Run]:
        """Buffers for a job, given back at the end. One that finds the captured ones taken has its own."""
        backbones = self.backbones
        capturable = self._capturable(backbones)
        layouts = [backbone.generation for backbone in capturable]  # new ones end captured runs that nobody has taken
        if capturable and self._captured.take():
            try:
                yield self._captured.run(job, capturable, layouts)
            finally:
                self._captured.give_back()
            return
        check_fit(backbones, job.batch, job.length, job.device)
        yield Run(job, backbones, [one.session(job.batch, job.length) for one in backbones], self.vocab_size)

    def _capturable(self, backbones: Sequence[Backbone]) -> list[FusedBackbone]:
        """The backbones if their steps are captured, else none."""
        fused = [backbone for backbone in backbones if isinstance(backbone, FusedBackbone)]
        captured = self.graphs and self.device.type in CAPTURING_DEVICES and len(fused) == len(backbones)
        return fused if captured else []
