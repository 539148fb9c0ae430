"""What a training run is: everything its result depends on, and the same in the words of `transformers.Trainer`."""

from __future__ import annotations

import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal

import torch

from ..errors import InvalidArgumentError
from ..preferences.reading import PairReading

Kind = Literal["arm", "trajectory-rm", "dpo", "parm", "value"]
# Adapters: GenARM's HH-RLHF run, and a tenth of that for DPO, whose rate acts on β alone. Whole models: a thousandth.
LEARNING_RATES: dict[Kind, float] = {"arm": 5e-4, "trajectory-rm": 5e-4, "dpo": 5e-5, "parm": 5e-4, "value": 5e-4}
FULL_LEARNING_RATE = 1e-6
# Kinds with a score in the head's place.
SCORERS = ("trajectory-rm", "value")


def listed(data: str | tuple[str, ...] | None) -> str | list[str] | None:
    """Data sets as JSON has them: the only one by its name."""
    return data if data is None or isinstance(data, str) else data[0] if len(data) == 1 else list(data)


def world_size() -> int:
    """Processes that the launcher started."""
    return int(os.environ.get("WORLD_SIZE", "1"))


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """One run of `genarm train`. Lengths are tokens, batches are pairs, a rate of None is the kind's own.

    ``beta`` is β_r of the AR-RM's loss (GenARM) or β of DPO's; a trajectory RM has none. ``center_rewards`` is the
    coefficient c of c · (r_w + r_l)² in a trajectory RM's loss. ``rank`` 0 trains the whole model. ``max_steps``
    overrides ``epochs``. A ``warmup`` below 1 is a share of all steps, else a number of steps. ``limit`` counts the
    pairs of each data set, and ``data_weights`` say how much of each is taken. What is None is chosen by `defaults` by
    the base and the pairs. ``continue_from`` is the folder of an adapter that training goes on with; ``early_stopping``
    how many evaluations in turn may bring no lower loss, 0 for any number; ``save_seconds`` the time between
    checkpoints, 0 for none by the clock; ``report_to`` names trackers that transformers writes to. ``objectives`` name
    those of a PARM run, whose data sets are theirs one by one, and ``concentration`` is that of the Dirichlet
    distribution of its preferences. A value head learns from ``samples`` answers to each prompt, of at most
    ``new_tokens`` tokens, that ``trajectory_rm`` scores; ``trace_decay`` is λ. ``activate`` "response" puts the adapter
    of an AR-RM to sleep on prompts, up to where their responses begin.
    """

    kind: Kind
    base: str
    data: str | tuple[str, ...]
    data_weights: tuple[float, ...] = ()
    where: Mapping[str, str] = field(default_factory=dict)
    reading: PairReading = field(default_factory=PairReading)
    eval_data: str | tuple[str, ...] | None = None
    eval_share: float | None = None
    limit: int | None = None
    objective: str = "reward"
    objectives: tuple[str, ...] = ()
    concentration: float = 0.5
    beta: float = 0.1
    center_rewards: float = 0.0
    trajectory_rm: str | None = None
    samples: int = 4
    new_tokens: int = 64
    trace_decay: float = 0.95
    rank: int = 8
    alpha: int = 16
    dropout: float = 0.05
    target_modules: tuple[str, ...] = ()
    activate: Literal["response"] | None = None
    epochs: float | None = None
    max_steps: int | None = None
    learning_rate: float | None = None
    schedule: str = "cosine"
    warmup: float = 0.1
    weight_decay: float = 0.05
    batch_size: int = 32
    micro_batch_size: int | None = None
    max_length: int = 1024
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    gradient_checkpointing: bool = False
    load_in_4bit: bool = False
    continue_from: str | None = None
    early_stopping: int = 0
    seed: int = 0
    device: str = "auto"
    save_every: int = 500
    save_seconds: float = 600.0
    log_every: int = 10
    eval_every: int = 0
    report_to: tuple[str, ...] = ()
    trust_remote_code: bool = False

    @property
    def rate(self) -> float:
        """The peak learning rate; before `defaults` has chosen it, that of a base of 7 billion parameters."""
        if self.learning_rate is not None:
            return self.learning_rate
        return LEARNING_RATES[self.kind] if self.rank else FULL_LEARNING_RATE

    @property
    def on_cuda(self) -> bool:
        """Whether GPUs do the work."""
        return self.device != "cpu" and torch.cuda.is_available()

    @property
    def bf16(self) -> bool:
        """Whether matrices are multiplied in bfloat16: "auto" is wherever hardware does that."""
        if self.precision != "auto":
            return self.precision == "bf16"
        if self.on_cuda:
            return bool(torch.cuda.is_bf16_supported())
        # older releases of torch do not tell; AMX made a step of the embedded model 1.8 times as fast as float32
        capabilities: Any = getattr(torch.cpu, "get_capabilities", dict)()
        return bool(capabilities.get("amx_bf16", False))

    def identity(self) -> dict[str, Any]:
        """What two runs must share to be the same run: all but how often it reports, with auto settled."""
        reported = {"log_every", "save_every", "save_seconds", "device", "precision", "learning_rate", "report_to"}
        if not self.early_stopping:  # which evaluations decide
            reported.add("eval_every")
        kept = {name: value for name, value in asdict(self).items() if name not in reported}
        kept.update(where=dict(self.where), target_modules=list(self.target_modules))
        kept.update(objectives=list(self.objectives), concentration=self.concentration if self.objectives else None)
        if self.kind != "value":
            for name in ("trajectory_rm", "samples", "new_tokens", "trace_decay"):
                del kept[name]
        kept.update(reading=self.reading.as_record(), data_weights=list(self.data_weights))
        kept.update({name: listed(kept[name]) for name in ("data", "eval_data")})
        return {**kept, "learning_rate": self.rate, "bf16": self.bf16}

    def accumulation(self) -> int:
        """Forward passes per step: the batch over the micro batches of all processes.

        Raises:
            InvalidArgumentError: a batch that these do not divide.
        """
        processes = world_size()
        micro = self.micro_batch_size or max(1, self.batch_size // processes)
        if self.batch_size % (micro * processes):
            raise InvalidArgumentError(
                f"a batch of {self.batch_size} pairs is not a multiple of {processes} processes x {micro} pairs: "
                "choose another batch size or micro batch size"
            )
        return self.batch_size // (micro * processes)

    def arguments(self, work: Path, steps_evaluated: bool) -> dict[str, Any]:
        """Keywords of `transformers.TrainingArguments` (and of TRL's, which extend it)."""
        accumulation = self.accumulation()
        micro = self.batch_size // (accumulation * world_size())
        stops = bool(steps_evaluated and self.early_stopping)
        return {
            "output_dir": str(work),
            "num_train_epochs": self.epochs or 1.0,
            "max_steps": self.max_steps or -1,
            "per_device_train_batch_size": micro,
            "per_device_eval_batch_size": micro,
            "gradient_accumulation_steps": accumulation,
            "learning_rate": self.rate,
            "lr_scheduler_type": self.schedule,
            "warmup_steps": self.warmup if self.warmup < 1 else int(self.warmup),
            "weight_decay": self.weight_decay,
            "bf16": self.bf16,
            "fp16": False,
            "gradient_checkpointing": self.gradient_checkpointing,
            "save_strategy": "steps" if self.save_every or stops else "no",
            "save_steps": self.eval_every if stops else self.save_every or 500,
            "save_total_limit": 2,
            "restore_callback_states_from_checkpoint": True,
            "eval_strategy": "steps" if steps_evaluated and self.eval_every else "no",
            "eval_steps": self.eval_every or None,
            "load_best_model_at_end": stops,
            "metric_for_best_model": "eval_loss" if stops else None,
            "logging_steps": self.log_every,
            "logging_first_step": True,
            "logging_nan_inf_filter": False,
            "report_to": list(self.report_to) or "none",
            "run_name": self.objective,
            "disable_tqdm": True,
            "remove_unused_columns": False,
            "seed": self.seed,
            "data_seed": self.seed,
            "use_cpu": not self.on_cuda,
            "dataloader_pin_memory": self.on_cuda,
            "ddp_find_unused_parameters": False,
        }
