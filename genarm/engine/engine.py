"""Backbones and what runs on them: from a decoder's models to the run of one job."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from ..models.backbone import Backbone
from ..models.plan import Plan
from .run import Job, Run


class Engine:
    """Runs jobs on the backbones of M models, the base's first. ``names`` are the models'."""

    def __init__(self, names: tuple[str, ...], plan: Plan, vocab_size: int, device: torch.device) -> None:
        self.names = names
        self.plan = plan
        self.vocab_size = vocab_size
        self.device = device

    @property
    def backbones(self) -> list[Backbone]:
        return self.plan.backbones

    @property
    def kind(self) -> str:
        """Which paths run, the base's first."""
        return "+".join(dict.fromkeys(backbone.kind for backbone in self.backbones))

    def lag(self, job: Job) -> int:
        """How many steps the host reads behind. The caller's own Python code, if there is any, waits for every step."""
        return int(self.device.type == "cuda" and job.edit is None and job.halt is None)

    @contextmanager
    def run(self, job: Job) -> Iterator[Run]:
        """Buffers for a job, given back at the end."""
        yield Run(job, self.backbones, self.vocab_size)
