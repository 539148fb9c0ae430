"""What a training run shows on the standard error: a bar with loss and accuracy, or a line a log."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from transformers import TrainerCallback

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
