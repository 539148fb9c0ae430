"""Names for what a profiler sees: NVTX ranges on a GPU, record_function where torch.profiler is on."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch


def annotated(name: str) -> AbstractContextManager[Any]:
    """A range called ``name`` in the timeline of whatever profiler is watching; nothing without one."""
    if torch._C._autograd._profiler_enabled():
        return torch.profiler.record_function(name)
    if torch.cuda.is_available():
        return torch.cuda.nvtx.range(name)
    return nullcontext()
