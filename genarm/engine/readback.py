"""Reading what a step drew without holding up the next one.

On a GPU a report is copied to pinned memory as soon as it is there, and read one step later, when the copy has long
arrived and the next step is under way. On a CPU it is there when the step returns.
"""

from __future__ import annotations

import torch
from torch import Tensor


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
