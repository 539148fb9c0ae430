"""One training run from settings to a folder of weights: started, stopped, gone on with, finished once."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from accelerate.state import PartialState
from transformers import PrinterCallback, Trainer
from transformers.trainer_utils import get_last_checkpoint

from ..errors import InvalidArgumentError
from . import record
from .dataset import load_pairs
from .models import trained_model, trained_tokenizer
from .progress import ShowProgress, accuracy_of
from .settings import TrainingSettings
from .trainers import TRAINERS

CHECKPOINTS = "checkpoints"


def train(
    settings: TrainingSettings, output: Path, overwrite: bool = False, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Train a reward model into ``output`` and return its record, which is also there as training.json.

    The folder gets a PEFT adapter (or the whole model with its tokenizer), safetensors. A run that was stopped goes on
    from its last checkpoint; one that is complete is left alone and its record returned. Under ``accelerate launch``
    or ``torchrun`` every process calls this and the first one writes.

    Args:
        settings: what to train; see `TrainingSettings`.
        output: the folder. ``overwrite`` clears what another run left in it.
        say: takes one-line messages.

    Raises:
        GenARMError: settings, data or a base that cannot be used; an ``output`` of another run.
    """
    settings.check()
    state: Any = PartialState(cpu=settings.device == "cpu")
    tokenizer = trained_tokenizer(settings)
    pairs = load_pairs(settings, tokenizer)
    new = record.begin(settings, pairs.facts)
    with state.main_process_first():
        kept = _kept(output, new, overwrite)
    state.wait_for_everyone()
    if kept is not None and kept.get("state") == "complete":
        say(f"{output} is complete already")
        return kept
    if state.is_main_process:
        for note in pairs.notes:
            say(note)
        if kept is None:
            _clear(output)
        record.write(output, new)
    state.wait_for_everyone()
    work = output / CHECKPOINTS
    model = trained_model(settings, tokenizer, pairs.longest)
    trainer = TRAINERS[settings.kind](settings, model, tokenizer, pairs, work)
    if trainer.args.n_gpu > 1:
        raise InvalidArgumentError(
            f"{trainer.args.n_gpu} GPUs are visible to one process: start with `accelerate launch -m genarm train ...` "
            "or make one visible with CUDA_VISIBLE_DEVICES"
        )
    _show(trainer, f"{settings.kind} {settings.objective}")
    metrics = _run(trainer, work, bool(pairs.held_out), say)
    if state.is_main_process:
        _save(trainer, tokenizer, output, whole_model=not settings.rank)
        new = record.finish(new, metrics, trainer.state.log_history)
        record.write(output, new)
        shutil.rmtree(work, ignore_errors=True)
    state.wait_for_everyone()
    return new


def _kept(output: Path, new: dict[str, Any], overwrite: bool) -> dict[str, Any] | None:
    """The record of this same run in ``output``, if it was there before."""
    if output.exists() and not output.is_dir():
        raise InvalidArgumentError(f"{output} is a file: name a folder")
    if not output.exists() or not any(output.iterdir()):
        return None
    old = record.read(output)
    if old is None or "settings" not in old or "data" not in old:
        raise InvalidArgumentError(
            f"{output} holds files of something other than a training run: choose another folder"
        )
    if overwrite:
        return None
    differing = record.same_run(old, new)
    if differing:
        raise InvalidArgumentError(
            f"{output} holds a run with another {', '.join(differing)}: choose another folder, or --overwrite it"
        )
    return old


def _clear(output: Path) -> None:
    if output.exists():
        shutil.rmtree(output)
    output.mkdir(parents=True)


def _show(trainer: Trainer, title: str) -> None:
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(ShowProgress(title))


def _run(trainer: Trainer, work: Path, evaluate: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Train to the end and measure on the pairs held out; what the record keeps of it."""
    find: Callable[[str], str | None] = get_last_checkpoint
    last = find(str(work)) if work.is_dir() else None
    if last is not None:
        say(f"going on from {Path(last).name}")
    trained = trainer.train(resume_from_checkpoint=last).metrics
    found = {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "train_seconds": trained["train_runtime"],
        "train_loss": trained["train_loss"],
        "train_accuracy": next(
            (value for logs in reversed(trainer.state.log_history) if (value := accuracy_of(logs)) is not None), None
        ),
    }
    if evaluate:
        measured = trainer.evaluate()
        found.update(eval_loss=measured["eval_loss"], eval_accuracy=_eval_accuracy(trainer))
    return found


def _eval_accuracy(trainer: Trainer) -> float | None:
    logs = (accuracy_of(logs, "eval_") for logs in reversed(trainer.state.log_history))
    return next((value for value in logs if value is not None), None)


def _save(trainer: Trainer, tokenizer: Any, output: Path, whole_model: bool) -> None:
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = True
    model.save_pretrained(output)
    if whole_model:
        tokenizer.save_pretrained(output)
    (output / "README.md").unlink(missing_ok=True)
