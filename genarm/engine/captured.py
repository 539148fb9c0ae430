"""The captured runs of an engine, and the one cache they share."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from ..models.transformer import FusedBackbone
from .graphs import CapturedRun, bucket
from .job import Job
from .memory import cache_bytes, check_fit

MOST_RUNS = 16
LENGTH_MULTIPLE = 512


class CapturedRuns:
    """Captured steps by the shapes they serve, least recently used first.

    They share one cache per backbone and one memory pool, since only one of them runs at a time. The cache is made for
    the largest batch the decoder allows, so that it is made once; without such limits it grows with what is asked for.
    """

    def __init__(
        self, vocab_size: int, max_batch_size: int | None, max_length: int | None, device: torch.device
    ) -> None:
        self._vocab_size = vocab_size
        self._limits = (max_batch_size, max_length)
        self._device = device
        self._runs: OrderedDict[Any, CapturedRun] = OrderedDict()
        self._caches: list[Tensor] = []
        self._size = (0, 0)  # sequences and tokens that the caches hold
        self._made_for: Any = None
        self._pool: Any = None
        self.captures = 0

    def run(self, job: Job, backbones: Sequence[FusedBackbone]) -> CapturedRun:
        """A run for a job, loaded with it."""
        self._make_room(job, backbones)
        if not job.interrupts:  # the caller's code sees the rows there are
            job = job.padded(bucket(job.batch))
        job = job.captured()
        key = (job.state(self._vocab_size).shapes(), job.return_logprobs, job.interrupts)
        run = self._runs.pop(key, None)
        if run is None:
            sessions = [
                backbone.session(job.batch, self._size[1], cache)
                for backbone, cache in zip(backbones, self._caches, strict=True)
            ]
            run = CapturedRun(job, backbones, sessions, self._vocab_size, self._pool)
            self.captures += 1
        self._runs[key] = run
        while len(self._runs) > MOST_RUNS:
            self._runs.popitem(last=False)
        run.load(job)
        return run

    def _make_room(self, job: Job, backbones: Sequence[FusedBackbone]) -> None:
        """Caches that hold the job; new ones, or newly laid out weights, make every captured run useless."""
        made_for = [(backbone, backbone.generation) for backbone in backbones]
        batch, length = self._needed(job)
        if made_for == self._made_for and batch <= self._size[0] and length <= self._size[1]:
            return
        self._runs.clear()
        self._caches.clear()
        self._size = (max(batch, self._size[0]), max(length, self._size[1]))
        check_fit(backbones, *self._size, self._device)
        self._caches = [
            torch.zeros(cache_bytes([backbone], *self._size), dtype=torch.uint8, device=self._device)
            for backbone in backbones
        ]
        self._made_for = made_for
        self._pool = torch.cuda.graph_pool_handle() if self._device.type == "cuda" else None

    def _needed(self, job: Job) -> tuple[int, int]:
        most, longest = self._limits
        length = -(-job.length // LENGTH_MULTIPLE) * LENGTH_MULTIPLE
        return bucket(max(job.batch, most or 1)), max(length, (longest or 0) + 1)
