"""A training run from the command line: messages while it runs, a line of figures at its end."""

from __future__ import annotations

import logging
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers.utils import logging as transformers_logging

from ..errors import GenARMError
from ..training.card import check_hub, push
from ..training.run import launched, train
from ..training.settings import TrainingSettings
from ..training.stopping import TrainingInterrupted
from ..training.verdict import remarks, reward_model_guides
from .console import say


def run(settings: TrainingSettings, output: Path, overwrite: bool, hub: str | None = None) -> int:
    """Train, say what came out, and upload it to the repository ``hub`` where one is named; the exit status.

    Raises:
        GenARMError: the run cannot start or continue; its last checkpoint is kept.
    """
    transformers_logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    transformers_logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    for name in ("huggingface_hub", "datasets", "trl", "accelerate"):
        logging.getLogger(name).setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning)
    warnings.filterwarnings("ignore", message="fan_in_fan_out is set to")  # PEFT corrects it for GPT-2 by itself
    warnings.filterwarnings("ignore", message="Could not find a config file in")  # of a base that is a LoRA folder
    state = launched(settings)
    if not state.is_main_process:
        warnings.simplefilter("ignore")

    def say_once(text: str) -> None:
        if state.is_main_process:
            say(text)

    try:
        if hub is not None:
            check_hub(hub)
        record = train(settings, output, overwrite, say_once)
    except TrainingInterrupted as stopped:
        say_once(f"{stopped}: the same command resumes there")
        return 128 + stopped.number
    except KeyboardInterrupt:
        say_once(f"interrupted: the same command resumes from the last checkpoint in {output}, if there is one")
        return 130
    except (MemoryError, torch.OutOfMemoryError) as error:
        raise GenARMError(
            f"memory ran out ({error}): choose a smaller --micro-batch-size or --max-length, or pass "
            "--gradient-checkpointing"
        ) from error
    except GenARMError:
        if state.is_main_process:
            raise
        return 1  # the first process says it
    for text in remarks(record):
        say_once(f"warning: {text}")
    say_once(summary(record, output))
    if hub is not None and state.is_main_process:
        say(f"uploaded to {push(output, hub)}")
    return 0


def summary(record: dict[str, Any], output: Path) -> str:
    """One line: where it is, how long it took, how good it is, and how to use it where it is of use."""
    metrics, train_data = record["metrics"], record["data"]["train"]
    amount = f"{train_data['answers']} answers" if "answers" in train_data else f"{train_data['pairs']} pairs"
    parts = [f"{metrics['steps']} steps on {amount} in {metrics['train_seconds']:.1f} s"]
    if metrics.get("eval_accuracy") is not None:
        held, interval = record["data"]["held out"]["pairs"], metrics.get("eval_accuracy_interval")
        shown = f" (95% interval {100 * interval[0]:.1f} to {100 * interval[1]:.1f}%)" if interval else ""
        parts.append(f"{100 * metrics['eval_accuracy']:.1f}% of {held} held-out pairs ordered right{shown}")
    for name, one in metrics.get("eval_accuracies", {}).items():
        parts.append(f"{name} alone: {100 * one['accuracy']:.1f}% of {one['pairs']}")
    if record["kind"] == "parm" and reward_model_guides(record):
        name, share = record["objective"], round(1 / len(record["objectives"]), 3)
        preference = ",".join(f"{one}:{share:g}" for one in record["objectives"])
        parts.append(f"guide with --reward {name}={output}:1.0 --preference {name}={preference}")
    if "eval_correlation" in metrics:
        parts.append(
            f"correlation {metrics['eval_correlation']:.3f} with the rewards of "
            f"{record['data']['held out']['answers']} held-out answers, mean squared error {metrics['eval_mse']:.3g} "
            f"(their variance: {metrics['eval_variance']:.3g})"
        )
    if record["kind"] == "arm" and reward_model_guides(record):
        parts.append(f"guide with --reward {record['objective']}={output}:1.0")
    return f"{output}: " + "; ".join(parts)
