"""A trainer at work: from nothing or from its last checkpoint to its last step, and what its record keeps of that."""

from __future__ import annotations

import contextlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import EarlyStoppingCallback, PrinterCallback, Trainer

from ..preferences.statistics import share
from . import folder
from .answers import AnswerSets
from .dataset import PairSets
from .held_out import ordered_right
from .progress import FiniteFigures, ShowProgress, TrainingClock, TrainingIsOver, accuracy_of, check_weights, mean_loss
from .settings import TrainingSettings
from .stopping import StopsAndSaves, TrainingInterrupted

VALUE_FIGURES = ("eval_loss", "eval_mse", "eval_variance", "eval_correlation")


@dataclass(slots=True)
class TrainingSession:
    """One trainer, the settings and pairs (or answers) it was made of, and where messages go."""

    trainer: Trainer
    settings: TrainingSettings
    pairs: PairSets | AnswerSets
    say: Callable[[str], None]

    def run(self, resumed: bool) -> dict[str, Any]:
        """Train to the end and measure on the held-out pairs; the metrics of the record.

        Raises:
            TrainingInterrupted: by a signal, with a checkpoint of the step it was in.
            NumericalError: figures or weights that are no numbers any more.
        """
        trainer, stops = self.trainer, StopsAndSaves(self.trainer.accelerator, self.settings.save_seconds, self.say)
        progress = ShowProgress(f"{self.settings.kind} {self.settings.objective}")
        trainer.remove_callback(PrinterCallback)
        callbacks: list[Any] = [TrainingClock(), progress, stops, FiniteFigures()]
        if self.settings.early_stopping and self.pairs.held_out:
            callbacks.append(EarlyStoppingCallback(self.settings.early_stopping))
        for callback in callbacks:
            trainer.add_callback(callback)
        before = digest(trainer.model)
        last = folder.last_checkpoint(Path(str(trainer.args.output_dir)))
        if resumed:
            self.say("no checkpoint was kept: starting over" if last is None else f"resuming from {last.name}")
        try:
            with contextlib.suppress(TrainingIsOver):
                trainer.train(resume_from_checkpoint=None if last is None else str(last))
            if stops.asked:
                raise TrainingInterrupted(stops.asked, trainer.state.global_step)
            model = trainer.accelerator.unwrap_model(trainer.model)
            check_weights(model, trainer.state.global_step)
            if self.pairs.held_out and not self._is_measured():
                trainer.evaluate()
        finally:
            progress.close()
            stops.close()
        return {**self._figures(), "unchanged": bool(torch.equal(before, digest(model)))}

    def _is_measured(self) -> bool:
        """With eval_every, the Trainer itself has measured after the last step; the best step's weights are measured
        anew where early stopping has put them back."""
        state = self.trainer.state
        if self.trainer.args.load_best_model_at_end and state.best_global_step != state.global_step:
            return False
        return any("eval_loss" in logs and logs["step"] == state.global_step for logs in state.log_history)

    def _figures(self) -> dict[str, Any]:
        state = self.trainer.state
        history = state.log_history
        found: dict[str, Any] = {
            "steps": state.global_step,
            "epochs": state.epoch,
            "train_seconds": round(self._seconds(), 3),
            "train_loss": mean_loss(history),
            "train_accuracy": _last_accuracy(history),
            "grad_norm": next((logs["grad_norm"] for logs in reversed(history) if "grad_norm" in logs), None),
        }
        if self.trainer.args.load_best_model_at_end:
            found["best_step"] = state.best_global_step
        if isinstance(self.pairs, AnswerSets):
            last = next((logs for logs in reversed(history) if "eval_loss" in logs), {})
            measured = {name: last[name] for name in VALUE_FIGURES if name in last}
            return {**found, "rewards": self.pairs.rewards, **measured}
        if self.pairs.held_out:
            loss = next(logs["eval_loss"] for logs in reversed(history) if "eval_loss" in logs)
            right = ordered_right(self.trainer, self.settings, self.pairs)
            interval = share(right, self.pairs.clusters)
            found.update(eval_loss=loss, eval_accuracy=_last_accuracy(history, "eval_"))
            found["eval_accuracy_interval"] = [round(interval.low, 6), round(interval.high, 6)]
            if self.settings.objectives:
                found["eval_accuracies"] = self._by_objective(right, self.pairs)
        return found

    def _by_objective(self, right: NDArray[np.bool_], pairs: PairSets) -> dict[str, Any]:
        """Accuracy on each objective's held-out pairs, under the preference for that objective alone."""
        found = {}
        for place, name in enumerate(self.settings.objectives):
            rows = [row for row, pair in enumerate(pairs.held_out) if pair["objective"] == place]
            if rows:
                one = share(right[rows], [pairs.clusters[row] for row in rows])
                bounds = [round(one.low, 6), round(one.high, 6)]
                found[name] = {"pairs": len(rows), "accuracy": float(right[rows].mean()), "interval": bounds}
        return found

    def _seconds(self) -> float:
        """The Trainer makes a new clock from a checkpoint's."""
        callbacks = self.trainer.callback_handler.callbacks
        return sum(callback.seconds for callback in callbacks if isinstance(callback, TrainingClock))


def digest(model: Any) -> Tensor:
    """[2] float64 that training changes wherever it changes a weight: Σ w and Σ w² of all that is trained."""
    weights = [weight.detach().double() for weight in model.parameters() if weight.requires_grad]
    parts = [torch.stack([weight.sum(), weight.square().sum()]).cpu() for weight in weights]
    return torch.stack(parts).sum(0) if parts else torch.zeros(2, dtype=torch.float64)


def _last_accuracy(history: list[dict[str, Any]], prefix: str = "") -> float | None:
    found = (accuracy_of(logs, prefix) for logs in reversed(history))
    return next((value for value in found if value is not None), None)
