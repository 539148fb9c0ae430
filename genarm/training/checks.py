"""Settings that no run could use, found before anything is read."""

from __future__ import annotations

import math

import torch
from transformers.integrations.integration_utils import get_available_reporting_integrations

from ..errors import InvalidArgumentError
from .settings import LEARNING_RATES, TrainingSettings, world_size

DEVICES = ("auto", "cpu", "cuda")
PRECISIONS = ("auto", "bf16", "fp32")
ACTIVATIONS = (None, "response")
# Those of transformers' schedules that ask for nothing more than a rate and a warm-up.
SCHEDULES = ("cosine", "linear", "constant", "constant_with_warmup", "polynomial", "inverse_sqrt")


def check(settings: TrainingSettings) -> None:
    """Raises InvalidArgumentError, which names the setting, what it is and what was expected."""
    _check_choices(settings)
    _check_numbers(settings)
    _check_objective(settings.objective)
    if settings.center_rewards and settings.kind != "trajectory-rm":
        raise InvalidArgumentError(
            f"center rewards belongs to a trajectory RM's loss, and {settings.kind} has another: leave it out"
        )
    nothing_held_out = settings.eval_data is None and settings.eval_share == 0
    for name, value in (("eval every", settings.eval_every), ("early stopping", settings.early_stopping)):
        if value and nothing_held_out:
            raise InvalidArgumentError(
                f"{name} is set, and nothing is held out: raise the eval share, or name eval data"
            )
    if settings.early_stopping and not settings.eval_every:
        raise InvalidArgumentError("early stopping counts evaluations, and there is one at the end: set eval every")
    if settings.device == "cuda" and not torch.cuda.is_available():
        raise InvalidArgumentError("device is 'cuda', but torch sees no CUDA device here: choose cpu or auto")
    _check_whole(settings)
    _check_activation(settings)
    _check_objectives(settings)
    _check_value(settings)
    _check_reports(settings)
    settings.accumulation()


def _check_whole(settings: TrainingSettings) -> None:
    """What goes with an adapter only."""
    if settings.rank == 0 and settings.load_in_4bit:
        raise InvalidArgumentError("load in 4bit freezes the base, and rank 0 trains it: choose a rank above 0")
    if settings.rank == 0 and settings.continue_from is not None:
        raise InvalidArgumentError(
            "continue from goes on with an adapter, and rank 0 trains the whole model: leave rank 0 out, or name the "
            "adapter's folder as the base, which makes it a part of that"
        )


def _check_activation(settings: TrainingSettings) -> None:
    """What can sleep on prompts."""
    if settings.activate is None:
        return
    if settings.kind != "arm":
        raise InvalidArgumentError(
            f"activate puts the adapter of an autoregressive reward model to sleep on prompts, and {settings.kind} is "
            "another kind: leave it out"
        )
    if settings.rank == 0:
        raise InvalidArgumentError(
            "activate puts an adapter to sleep on prompts, and rank 0 trains the whole model: choose a rank above 0"
        )


def _check_objectives(settings: TrainingSettings) -> None:
    """What a run of several objectives goes with."""
    if settings.kind != "parm":
        return
    names = settings.objectives
    if len(names) < 2 or len(set(names)) < len(names) or any(not name or set(name) & set("=:,") for name in names):
        raise InvalidArgumentError(
            f"objectives are {', '.join(names) or 'not named'}: name two or more, each once and without any of = : , "
            "(--data helpful=a.jsonl --data harmless=b.jsonl)"
        )
    for data in (settings.data, settings.eval_data):
        if data is not None and (isinstance(data, str) or len(data) != len(names)):
            raise InvalidArgumentError(f"{len(names)} objectives need as many data sets, in their order: name one each")
    if settings.rank < 2 or settings.rank % 2:
        raise InvalidArgumentError(
            f"rank is {settings.rank}: half of it is conditioned, so give an even number above 0"
        )
    if settings.load_in_4bit or settings.continue_from is not None:
        what = "load in 4bit" if settings.load_in_4bit else "continue from"
        raise InvalidArgumentError(f"{what} goes with plain LoRA, and this adapter is of another kind: leave it out")
    if not (settings.concentration > 0 and math.isfinite(settings.concentration)):
        raise InvalidArgumentError(f"concentration is {settings.concentration}: expected a number above 0")


def _check_value(settings: TrainingSettings) -> None:
    """What a value head learns from."""
    if settings.kind != "value":
        if settings.trajectory_rm is not None:
            raise InvalidArgumentError(
                f"trajectory rm scores a value head's answers, not {settings.kind}: leave it out"
            )
        return
    if not settings.trajectory_rm:
        raise InvalidArgumentError(
            "a value head learns a trajectory RM's rewards: name one (--trajectory-rm; genarm train trajectory-rm "
            "makes one)"
        )
    if not 0 <= settings.trace_decay <= 1 or min(settings.samples, settings.new_tokens) < 1:
        raise InvalidArgumentError(
            f"trace decay is {settings.trace_decay}, samples {settings.samples}, new tokens {settings.new_tokens}: "
            "expected a λ from 0 to 1, and at least one sample of one token"
        )
    if settings.new_tokens >= settings.max_length:
        raise InvalidArgumentError(
            f"max length {settings.max_length} leaves no room for a prompt before {settings.new_tokens} new tokens"
        )
    if settings.data_weights:
        raise InvalidArgumentError("data weights count pairs, and each prompt is answered as often as samples says")
    if world_size() > 1:
        raise InvalidArgumentError("answers are drawn by one process: start without a launcher")


def _check_reports(settings: TrainingSettings) -> None:
    there: list[str] = get_available_reporting_integrations()  # type: ignore[no-untyped-call]
    for name in settings.report_to:
        if name not in there:
            raise InvalidArgumentError(
                f"report to {name!r}: transformers finds no such tracker here ({', '.join(there) or 'none'}): pip "
                f"install {name}, or choose another"
            )


def _check_choices(settings: TrainingSettings) -> None:
    choices = {
        "kind": (settings.kind, tuple(LEARNING_RATES)),
        "device": (settings.device, DEVICES),
        "precision": (settings.precision, PRECISIONS),
        "schedule": (settings.schedule, SCHEDULES),
        "activate": (settings.activate, ACTIVATIONS),
    }
    for name, (value, known) in choices.items():
        if value not in known:
            raise InvalidArgumentError(f"{name} is {value!r}: expected one of {', '.join(map(str, known))}")


def _check_numbers(settings: TrainingSettings) -> None:
    positive = {
        "beta": settings.beta,
        "epochs": settings.epochs,
        "learning rate": settings.rate,
        "batch size": settings.batch_size,
        "max length": settings.max_length,
        "log every": settings.log_every,
        "alpha": settings.alpha,
        "micro batch size": settings.micro_batch_size,
        "max steps": settings.max_steps,
        "limit": settings.limit,
    }
    for name, value in positive.items():
        if value is not None and not (value > 0 and math.isfinite(value)):
            raise InvalidArgumentError(f"{name} is {value}: expected a number above 0")
    at_least_0 = {
        "rank": settings.rank,
        "warmup": settings.warmup,
        "weight decay": settings.weight_decay,
        "center rewards": settings.center_rewards,
        "save every": settings.save_every,
        "save seconds": settings.save_seconds,
        "early stopping": settings.early_stopping,
        "eval every": settings.eval_every,
    }
    for name, value in at_least_0.items():
        if not (value >= 0 and math.isfinite(value)):
            raise InvalidArgumentError(f"{name} is {value}: expected 0 or more")
    for name, value in (("eval share", settings.eval_share), ("dropout", settings.dropout)):
        if value is not None and not 0 <= value < 1:
            raise InvalidArgumentError(f"{name} is {value}: expected a share from 0 to below 1")
    if not 0 <= settings.seed < 2**32:
        raise InvalidArgumentError(f"seed is {settings.seed}: expected a whole number from 0 to {2**32 - 1}")


def _check_objective(name: str) -> None:
    """It becomes the NAME of a --reward NAME=PATH."""
    if not name or name == "base" or "=" in name:
        raise InvalidArgumentError(
            f"objective is {name!r}: choose another name, without an equals sign and other than the base model's"
        )
