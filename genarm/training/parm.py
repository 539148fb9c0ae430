"""One reward model for several objectives (PARM): PBLORA adapters trained under preferences drawn anew at every step.

    p ~ Dirichlet(c, …, c)       L = Σ_k p_k · L_k(π_r(· | p)),   L_k the GenARM loss on objective k's pairs

models/preference_adapters.py has the adapter's formula. A step's pairs are a sample of all objectives' together, each
pair's loss weighted by p_k · N / N_k, N_k of the N pairs being objective k's: in the mean that is L, however many pairs
each objective has.
Source: Lin et al., "PARM: Multi-Objective Test-Time Alignment via Preference-Aware Autoregressive Reward Model", ICML
2025, where c = 0.5.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from ..errors import InvalidArgumentError
from ..models.files import ADAPTER_FILES
from ..models.preference_adapters import KIND
from ..preferences.collate import PairCollator
from ..preferences.encoding import EncodedPair
from .arm import ArmTrainer, pair_log_probs
from .settings import TrainingSettings

PARTS = ("pblora_A", "pblora_B", "pblora_W1", "pblora_W2")


@dataclass(slots=True)
class Conditions:
    """What all layers of a model are conditioned on: shares [K], or [N, K] for each row of a batch. It stays as it is
    after a forward pass, whose layers may be computed again in the backward pass."""

    shares: Tensor = field(default_factory=lambda: torch.zeros(0))


class ConditionedLinear(nn.Module):
    """A frozen linear layer with a PBLORA adapter of K objectives on it, r₁ = r₂."""

    def __init__(self, layer: Any, rank: int, scale: float, dropout: float, count: int, conditions: Conditions) -> None:
        super().__init__()
        self.base_layer, self.conditions, self.scale = layer, conditions, scale
        self.dropout = nn.Dropout(dropout)
        half = rank // 2
        self.pblora_A = nn.Parameter(torch.empty(rank, layer.in_features))
        self.pblora_B = nn.Parameter(torch.zeros(layer.out_features, rank))
        self.pblora_W1 = nn.Parameter(torch.empty(half, half))
        self.pblora_W2 = nn.Parameter(torch.empty(count, half * half))
        for weight in (self.pblora_A, self.pblora_W1, self.pblora_W2):
            nn.init.kaiming_uniform_(weight, a=math.sqrt(5))

    def forward(self, x: Tensor) -> Tensor:
        """x [N, T, in] -> [N, T, out]."""
        half = len(self.pblora_W1)
        fixed, mixed = F.linear(self.dropout(x).to(self.pblora_A.dtype), self.pblora_A).chunk(2, -1)
        shares = self.conditions.shares.to(self.pblora_W2)
        second = (shares @ self.pblora_W2).view(*shares.shape[:-1], half, half)
        shrunk = torch.cat([F.linear(fixed, self.pblora_W1), mixed @ second.mT.to(mixed.dtype)], -1)
        out: Tensor = self.base_layer(x)
        return out + self.scale * F.linear(shrunk, self.pblora_B).to(out.dtype)


def conditioned(model: Any, settings: TrainingSettings) -> Any:
    """``model`` frozen, with fresh adapters on its linear layers but the head, or on the modules named."""
    conditions = Conditions()
    model.requires_grad_(False)
    names = list(_targets(model, settings.target_modules))
    if not names:
        wanted = ", ".join(settings.target_modules) or "all but the head"
        raise InvalidArgumentError(f"{settings.base}: has no such linear layers ({wanted}): name other target modules")
    for name in names:
        parent, _, leaf = name.rpartition(".")
        layer = ConditionedLinear(
            model.get_submodule(name),
            settings.rank,
            settings.alpha / settings.rank,
            settings.dropout,
            len(settings.objectives),
            conditions,
        )
        setattr(model.get_submodule(parent), leaf, layer)
    return model


def _targets(model: Any, named: Sequence[str]) -> Iterator[str]:
    head = model.get_output_embeddings()
    for name, part in model.named_modules():
        is_named = not named or any(name == one or name.endswith(f".{one}") for one in named)
        if isinstance(part, nn.Linear) and part is not head and is_named:
            yield name


def layers_of(model: Any) -> dict[str, ConditionedLinear]:
    """The conditioned layers by their names."""
    return {name: part for name, part in model.named_modules() if isinstance(part, ConditionedLinear)}


def save_conditioned(model: Any, settings: TrainingSettings, folder: Path) -> None:
    """The adapter's two files, in the form that PARM's own have, with the objectives' names."""
    folder.mkdir(parents=True, exist_ok=True)
    layers = layers_of(model)
    tensors = {
        f"base_model.model.{name}.{part}": getattr(layer, part).detach().float().cpu().contiguous()
        for name, layer in layers.items()
        for part in PARTS
    }
    half = settings.rank // 2
    config = {
        "peft_type": KIND,
        "task_type": "CAUSAL_LM",
        "base_model_name_or_path": settings.base,
        "objectives": list(settings.objectives),
        "obj_num": len(settings.objectives),
        "pref_vec_init": None,
        "r1": half,
        "r2": half,
        "lora_alpha": settings.alpha * half / settings.rank,
        "lora_dropout": settings.dropout,
        "target_modules": sorted(settings.target_modules or {name.rpartition(".")[2] for name in layers}),
        "bias": "none",
        "fan_in_fan_out": False,
        "inference_mode": True,
    }
    save_file(tensors, folder / ADAPTER_FILES[1], metadata={"format": "pt"})
    (folder / ADAPTER_FILES[0]).write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


@torch.no_grad()
def load_conditioned(model: Any, folder: Path) -> None:
    """Put the weights in a folder that `save_conditioned` wrote into the layers they came from."""
    tensors = load_file(folder / ADAPTER_FILES[1])
    for name, layer in layers_of(model).items():
        for part in PARTS:
            getattr(layer, part).copy_(tensors[f"base_model.model.{name}.{part}"])


@dataclass(frozen=True, slots=True)
class ObjectiveCollator:
    """As `PairCollator`, with the objectives [B] int64 that the pairs are of."""

    pad_token_id: int

    def __call__(self, pairs: Sequence[EncodedPair]) -> dict[str, Tensor]:
        own = torch.tensor([pair["objective"] for pair in pairs])
        return {**PairCollator(self.pad_token_id)(pairs), "objectives": own}


class ParmTrainer(ArmTrainer):
    """The GenARM loss under a preference drawn for each step. Held-out pairs are measured at their objective's corner.

    ``settings`` are the run's, ``counts`` the pairs of each objective that are trained on.
    """

    def __init__(self, *args: Any, settings: TrainingSettings, counts: Sequence[int], **kwargs: Any) -> None:
        super().__init__(*args, beta=settings.beta, **kwargs)
        self.settings = settings
        self._balance = torch.tensor([sum(counts) / max(1, count) for count in counts])
        (self._conditions,) = {id(one.conditions): one.conditions for one in layers_of(self.model).values()}.values()

    def preference_of(self, step: int) -> Tensor:
        """[K] float32, drawn from the seed and the step alone, so that a resumed run draws what it would have."""
        draw = np.random.default_rng([self.settings.seed, step])
        alphas = [self.settings.concentration] * len(self.settings.objectives)
        return torch.tensor(draw.dirichlet(alphas), dtype=torch.float32)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        own = inputs["objectives"]
        if num_items_in_batch is None:
            corners = torch.eye(len(self.settings.objectives), device=own.device)[own]
            self._conditions.shares, weights = torch.cat([corners, corners]), torch.ones_like(own, dtype=torch.float32)
        else:
            preference = self.preference_of(self.state.global_step).to(own.device)
            self._conditions.shares, weights = preference, (preference * self._balance.to(own.device))[own]
        chosen, rejected = pair_log_probs(model, inputs, self.accelerator.unwrap_model(model))
        loss = (-F.logsigmoid(self.beta * (chosen - rejected)) * weights).mean()
        if num_items_in_batch is not None:
            self._rewards[False].append(torch.stack([chosen, rejected], 1).detach())
            loss = self.part_of_step(loss, len(chosen), num_items_in_batch)
        return (loss, {"chosen": chosen, "rejected": rejected}) if return_outputs else loss

    def _save(self, output_dir: str | None = None, state_dict: Any = None) -> None:
        """A checkpoint holds the adapter; the base is as it was."""
        model = self.accelerator.unwrap_model(self.model)
        save_conditioned(model, self.settings, Path(output_dir or str(self.args.output_dir)))

    def _load_from_checkpoint(self, resume_from_checkpoint: str, model: Any = None) -> None:
        load_conditioned(self.accelerator.unwrap_model(self.model), Path(resume_from_checkpoint))

    def _load_best_model(self) -> None:
        load_conditioned(self.accelerator.unwrap_model(self.model), Path(str(self.state.best_model_checkpoint)))
