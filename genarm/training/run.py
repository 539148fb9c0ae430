"""One training run from settings to a folder of weights: started, stopped, resumed, finished once."""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate.state import PartialState
from accelerate.utils.dataclasses import DistributedType
from transformers import Trainer

from ..errors import InvalidArgumentError
from ..models.activation import write_activation
from ..preferences.chat import pair_tokenizer
from . import folder
from .answers import AnswerSets, answered
from .card import write_card
from .checks import check
from .continuing import continued
from .dataset import load_pairs
from .defaults import epochs_for, with_rate
from .memory import check_memory
from .models import trained_model
from .parm import save_conditioned
from .prompts import PromptSets, load_prompts
from .session import TrainingSession
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
    check_memory(settings)
    tokenizer = pair_tokenizer(settings.base, settings.trust_remote_code)
    settings = with_rate(continued(settings))
    data = load_prompts(settings, tokenizer) if settings.kind == "value" else load_pairs(settings, tokenizer)
    settings = replace(settings, epochs=epochs_for(settings, len(data.train)))
    new = folder.new_record(settings, data.facts)
    old = folder.earlier_run(output, new, overwrite)
    if old is not None and old["state"] == "complete":
        say(f"{output} is complete already")
        folder.drop_checkpoints(output)
        return old
    state.wait_for_everyone()  # until all have looked, nobody writes
    pairs = answered(settings, data, tokenizer, say) if isinstance(data, PromptSets) else data
    model = trained_model(settings, tokenizer, pairs.longest)
    with _tensorboard_in(output / folder.LOGS):
        trainer = TRAINERS[settings.kind](settings, model, tokenizer, pairs, output / folder.CHECKPOINTS)
    if state.is_main_process:
        if old is None:
            folder.clear(output)
        folder.write_record(output, new)
    state.wait_for_everyone()
    for note in pairs.notes:
        say(note)
    metrics = TrainingSession(trainer, settings, pairs, say).run(resumed=old is not None)
    new = folder.finished(new, metrics, trainer.state.log_history)
    if state.is_main_process:
        _save(trainer, settings, tokenizer, output)
        if not isinstance(pairs, AnswerSets) and pairs.activation is not None:
            write_activation(output, pairs.activation)
        write_card(output, new)
        folder.write_record(output, new)
        folder.open_up(output)
        folder.drop_checkpoints(output)
    state.wait_for_everyone()
    return new


def launched(settings: TrainingSettings) -> Any:
    """This process among those that the launcher started, on the same devices as the Trainer will see it."""
    # else the launcher's own setting would win over float32
    os.environ["ACCELERATE_MIXED_PRECISION"] = "bf16" if settings.bf16 else "no"
    return PartialState(cpu=not settings.on_cuda)


@contextmanager
def _tensorboard_in(place: Path) -> Iterator[None]:
    """Trackers made meanwhile write there, unless the environment names another place."""
    name = "TENSORBOARD_LOGGING_DIR"
    given = name in os.environ
    os.environ.setdefault(name, str(place))
    try:
        yield
    finally:
        if not given:
            del os.environ[name]


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


def _save(trainer: Trainer, settings: TrainingSettings, tokenizer: Any, output: Path) -> None:
    """The adapter, or the whole model with its tokenizer."""
    model = trainer.accelerator.unwrap_model(trainer.model)
    if settings.kind == "parm":
        save_conditioned(model, settings, output)
        return
    model.config.use_cache = True
    for config in getattr(model, "peft_config", {}).values():
        if isinstance(config.target_modules, set):  # whose order changes from process to process
            config.target_modules = sorted(config.target_modules)
    model.save_pretrained(output)
    if not settings.rank:
        tokenizer.save_pretrained(output)
