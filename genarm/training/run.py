"""One training run from settings to a folder of weights: started, stopped, resumed, finished once."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils.dataclasses import DistributedType
from transformers import PrinterCallback, Trainer

from ..errors import InvalidArgumentError
from ..preferences.chat import pair_tokenizer
from . import folder
from .checks import check
from .dataset import load_pairs
from .models import trained_model
from .progress import FiniteFigures, ShowProgress, TrainingClock, TrainingIsOver, accuracy_of, check_weights, mean_loss
from .settings import TrainingSettings
from .trainers import TRAINERS


def train(
    settings: TrainingSettings, output: Path, overwrite: bool = False, say: Callable[[str], None] = lambda text: None
) -> dict[str, Any]:
    """Train a reward model into ``output`` and return its record, which is also there as training.json.

    The folder gets a PEFT adapter (or the whole model with its tokenizer), safetensors. A run that was stopped resumes
    from its last checkpoint; one that is complete is left alone and its record returned. Under ``accelerate launch``
    or ``torchrun`` every process calls this and the first one writes.

    Args:
        settings: what to train; see `TrainingSettings`.
        output: the folder. ``overwrite`` clears what another run left in it.
        say: takes one-line messages.

    Raises:
        GenARMError: settings, data or a base that cannot be used; an ``output`` of another run.
    """
    check(settings)
    state = launched(settings)
    _check_launch(settings, state)
    tokenizer = pair_tokenizer(settings.base, settings.trust_remote_code)
    pairs = load_pairs(settings, tokenizer)
    new = folder.new_record(settings, pairs.facts)
    old = folder.earlier_run(output, new, overwrite)
    if old is not None and old["state"] == "complete":
        say(f"{output} is complete already")
        folder.drop_checkpoints(output)
        return old
    state.wait_for_everyone()  # until all have looked, nobody writes
    model = trained_model(settings, tokenizer, pairs.longest)
    trainer = TRAINERS[settings.kind](settings, model, tokenizer, pairs, output / folder.CHECKPOINTS)
    if state.is_main_process:
        if old is None:
            folder.clear(output)
        folder.write_record(output, new)
    state.wait_for_everyone()
    for note in pairs.notes:
        say(note)
    title = f"{settings.kind} {settings.objective}"
    metrics = _run(trainer, title, old is not None, bool(pairs.held_out), say)
    new = folder.finished(new, metrics, trainer.state.log_history)
    if state.is_main_process:
        _save(trainer, None if settings.rank else tokenizer, output)
        folder.open_up(output)
        folder.write_record(output, new)
        folder.drop_checkpoints(output)
    state.wait_for_everyone()
    return new


def launched(settings: TrainingSettings) -> Any:
    """This process among those that the launcher started, on the same devices as the Trainer will see it."""
    # else the launcher's own setting would win over float32
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if settings.bf16 else "no"
    return PartialState(cpu=not settings.on_cuda)


def _check_launch(settings: TrainingSettings, state: Any) -> None:
    for name in ("FSDP", "DEEPSPEED"):
        if os.environ.get(f"ACCELERATE_USE_{name}", "").lower() in {"1", "true"}:
            raise InvalidArgumentError(
                f"accelerate was set up for {name}, and every process here needs whole weights: launch with --multi_gpu"
            )
    if settings.on_cuda and state.distributed_type == DistributedType.NO and torch.cuda.device_count() > 1:
        raise InvalidArgumentError(
            f"{torch.cuda.device_count()} GPUs are visible to one process: start with `accelerate launch -m genarm "
            "train ...`, or make one visible with CUDA_VISIBLE_DEVICES"
        )


def _run(trainer: Trainer, title: str, resumed: bool, evaluate: bool, say: Callable[[str], None]) -> dict[str, Any]:
    """Train to the end and measure on the held-out pairs; what the record keeps of it."""
    progress = ShowProgress(title)
    trainer.remove_callback(PrinterCallback)
    for callback in (TrainingClock(), progress, FiniteFigures()):
        trainer.add_callback(callback)
    last = folder.last_checkpoint(Path(str(trainer.args.output_dir)))
    if resumed:
        say("no checkpoint was kept: starting over" if last is None else f"resuming from {last.name}")
    try:
        with contextlib.suppress(TrainingIsOver):
            trainer.train(resume_from_checkpoint=None if last is None else str(last))
        check_weights(trainer.accelerator.unwrap_model(trainer.model), trainer.state.global_step)
        if evaluate and not _is_measured(trainer):
            trainer.evaluate()
    finally:
        progress.close()
    history = trainer.state.log_history
    found = {
        "steps": trainer.state.global_step,
        "epochs": trainer.state.epoch,
        "train_seconds": round(_seconds(trainer), 3),
        "train_loss": mean_loss(history),
        "train_accuracy": _last_accuracy(history),
    }
    if evaluate:
        loss = next(logs["eval_loss"] for logs in reversed(history) if "eval_loss" in logs)
        found.update(eval_loss=loss, eval_accuracy=_last_accuracy(history, "eval_"))
    return found


def _is_measured(trainer: Trainer) -> bool:
    """With eval_every, the Trainer itself has measured after the last step."""
    last = trainer.state.global_step
    return any("eval_loss" in logs and logs["step"] == last for logs in trainer.state.log_history)


def _seconds(trainer: Trainer) -> float:
    """The Trainer makes a new clock from a checkpoint's."""
    callbacks = trainer.callback_handler.callbacks
    return sum(callback.seconds for callback in callbacks if isinstance(callback, TrainingClock))


def _last_accuracy(history: list[dict[str, Any]], prefix: str = "") -> float | None:
    found = (accuracy_of(logs, prefix) for logs in reversed(history))
    return next((value for value in found if value is not None), None)


def _save(trainer: Trainer, tokenizer: Any, output: Path) -> None:
    """The adapter, or the whole model where a tokenizer comes with it."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    model.config.use_cache = True
    for config in getattr(model, "peft_config", {}).values():
        if isinstance(config.target_modules, set):  # whose order changes from process to process
            config.target_modules = sorted(config.target_modules)
    model.save_pretrained(output)
    (output / "README.md").unlink(missing_ok=True)  # PEFT's form of a model card, not filled in
    if tokenizer is not None:
        tokenizer.save_pretrained(output)
