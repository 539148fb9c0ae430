"""What a training run shows on the standard error: a bar with loss and accuracy, or a line per log; and
what is watched while it runs: its time, its end, and that its figures are still numbers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from typing import Any

import torch
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from torch import nn
from transformers import TrainerCallback
from transformers.trainer_callback import ExportableState

from ..errors import NumericalError

# Where each trainer logs the share of pairs it orders right.
ACCURACY = ("accuracy", "rewards/accuracies")


class ShowProgress(TrainerCallback):
    """Shows steps, loss, live accuracy and time left, on the main process only."""

    def __init__(self, title: str, console: Console | None = None) -> None:
        self.console = console or Console(stderr=True)
        self.title = title
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[figures]}"),
        )
        self.progress = Progress(
            *columns, TimeRemainingColumn(), console=self.console, disable=not self.console.is_terminal
        )
        self.task = self.progress.add_task(title, total=None, figures="")

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.is_world_process_zero:
            self.progress.update(self.task, total=state.max_steps, completed=state.global_step)
            self.progress.start()

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.progress.update(self.task, completed=state.global_step)

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        text = figures(logs or {})
        if not text or not state.is_world_process_zero:
            return
        self.progress.update(self.task, figures=text)
        if not self.console.is_terminal:
            line = f"genarm: {self.title}, step {state.global_step} of {state.max_steps}: {text}"
            self.console.print(line, soft_wrap=True, highlight=False)

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.close()

    def close(self) -> None:
        """Give the terminal back; a run that failed ends without on_train_end."""
        self.progress.stop()


def figures(logs: Mapping[str, Any]) -> str:
    """Loss and accuracy of one log, in words; empty for a log without them."""
    for prefix, name in (("", ""), ("eval_", "held out: ")):
        if f"{prefix}loss" in logs:
            accuracy = accuracy_of(logs, prefix)
            shown = "" if accuracy is None else f", accuracy {100 * accuracy:.1f}%"
            return f"{name}loss {float(logs[f'{prefix}loss']):.4f}{shown}"
    return ""


def accuracy_of(logs: Mapping[str, Any], prefix: str = "") -> float | None:
    """The share of pairs ordered right, under whatever name the trainer logs it."""
    return next((float(logs[prefix + name]) for name in ACCURACY if prefix + name in logs), None)


class TrainingClock(TrainerCallback, ExportableState):
    """Seconds of the training loop, those before the checkpoint that a run resumes from included.

    What a stopped run did after its last checkpoint is done again, and counts once.
    """

    def __init__(self, seconds: float = 0.0) -> None:
        self.before = seconds
        self.since: float | None = None

    @property
    def seconds(self) -> float:
        return self.before + (0.0 if self.since is None else time.perf_counter() - self.since)

    def state(self) -> dict[str, Any]:
        return {"args": {"seconds": self.seconds}, "attributes": {}}

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.since = time.perf_counter()

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        self.before, self.since = self.seconds, None


class TrainingIsOver(Exception):
    """The checkpoint that a run resumes from is its last step's. The Trainer would take one step more."""


class FiniteFigures(TrainerCallback):
    """Ends a run whose loss is not finite any more.

    The last step and those with a checkpoint are logged too, so that no loss goes unseen and none is lost with a run
    that is stopped.
    """

    def on_train_begin(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        if state.global_step >= state.max_steps:
            raise TrainingIsOver

    def on_step_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        control.should_log |= control.should_save or control.should_training_stop

    def on_log(self, args: Any, state: Any, control: Any, logs: Mapping[str, Any] | None = None, **_: Any) -> None:
        for name, value in (logs or {}).items():
            if name in ("loss", "eval_loss") and not math.isfinite(value):
                raise _diverged(f"the loss is {value}", state.global_step)


def check_weights(model: nn.Module, step: int) -> None:
    """Raises NumericalError if a weight that was trained is no finite number."""
    for name, weight in model.named_parameters():
        if weight.requires_grad and not torch.isfinite(weight).all():
            raise _diverged(f"{name} is not finite", step)


def mean_loss(history: list[dict[str, Any]]) -> float:
    """The mean over all steps of a log, whose losses are means since the entry before."""
    total, last = 0.0, 0
    for logs in history:
        if "loss" in logs:
            total += logs["loss"] * (logs["step"] - last)
            last = logs["step"]
    return total / max(last, 1)


def _diverged(what: str, step: int) -> NumericalError:
    return NumericalError(
        f"{what} at step {step}: training has diverged, and nothing was saved: start over with a lower learning rate"
    )
