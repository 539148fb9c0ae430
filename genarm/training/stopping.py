"""A run that is asked to stop finishes its step and keeps a checkpoint; checkpoints by the clock beside those by steps.

Processes of one run agree after each step: what one was asked for, all do.
"""

from __future__ import annotations

import re
import signal
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any

import torch
from transformers import TrainerCallback

from ..errors import InvalidArgumentError

SIGNALS = (signal.SIGINT, signal.SIGTERM)
SECONDS = {"s": 1, "m": 60, "min": 60, "h": 3600}


class TrainingInterrupted(KeyboardInterrupt):
    """A run was stopped by a signal after ``step``, whose checkpoint is kept."""

    def __init__(self, number: int, step: int) -> None:
        super().__init__(f"stopped by {signal.Signals(number).name} after step {step}")
        self.number, self.step = number, step


class StopsAndSaves(TrainerCallback):
    """At SIGINT and SIGTERM the run ends after the step it is in, with a checkpoint; ``seconds`` are those between
    checkpoints, 0 for none by the clock. A second SIGINT ends it at once. Handlers are put back at the end."""

    def __init__(self, accelerator: Any, seconds: float = 0.0, say: Callable[[str], None] = lambda text: None) -> None:
        self.accelerator, self.seconds, self.say = accelerator, seconds, say
        self.asked = 0
        self.saved = 0.0
        self._before: dict[int, Any] = {}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._take) for number in SIGNALS}

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        due = bool(self.seconds) and time.monotonic() - self.saved >= self.seconds
        asked, due = self._agreed(self.asked, due)
        self.asked = asked
        control.should_save |= bool(asked) or due
        control.should_training_stop |= bool(asked)

    def on_save(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.saved = time.monotonic()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Signals do again what they did before."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _take(self, number: int, frame: FrameType | None) -> None:
        if self.asked:
            raise KeyboardInterrupt
        self.asked = number
        self.say("stopping after this step, with a checkpoint; once more stops at once, without one")

    def _agreed(self, asked: int, due: bool) -> tuple[int, bool]:
        """The largest of all processes; a collective call in every step, where there are several."""
        if self.accelerator.num_processes == 1:
            return asked, due
        flags = torch.tensor([[asked, int(due)]], device=self.accelerator.device)
        gathered: torch.Tensor = self.accelerator.gather(flags)
        number, save = gathered.amax(0).tolist()
        return int(number), bool(save)


def save_points(text: str) -> tuple[int, float]:
    """Steps and seconds between checkpoints, from "500", "10m", or both as "500,10m"; 0 for what is not named.

    Raises:
        InvalidArgumentError: another form, or one of the two named twice.
    """
    found: dict[str, float] = {}
    for part in text.split(","):
        match = re.fullmatch(r"(\d+(?:\.\d+)?)(s|m|min|h)?", part.strip())
        kind = "steps" if match and not match[2] else "seconds"
        if match is None or kind in found or (kind == "steps" and not match[1].isdigit()):
            raise InvalidArgumentError(
                f"save every {text!r} cannot be read: write a number of steps (500), a time (30s, 10m, 1h), or both "
                "(500,10m); 0 for no checkpoint before the run is stopped"
            )
        found[kind] = float(match[1]) * SECONDS.get(match[2] or "", 1)
    return int(found.get("steps", 0)), found.get("seconds", 0.0)
