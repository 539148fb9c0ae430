"""A value head: after every token, an estimate of the reward that the base's own continuation will earn.

    G_T = r(x, y),   G_t = (1 − λ) · V(x, y_≤t+1) + λ · G_t+1,   V(x, y_≤T) being r itself
    L = ½ · mean over t = 0 … T of (V(x, y_≤t) − G_t)²

The reward is the trajectory RM's of the whole answer, 0 before its end, undiscounted (γ = 1). Targets are computed anew
for every batch, from the estimates of its own forward pass, and no gradient flows into them. With λ = 1 they are the
reward itself (Monte-Carlo returns), with λ = 0 the estimate one token later.

Source: TD(λ) as in Sutton & Barto, "Reinforcement Learning", chapter 12; for value heads of language models Han et al.,
"Value Augmented Sampling for Language Model Alignment and Personalization", 2024, λ = 0.95.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor
from transformers import Trainer

from ..models.scalar import HEADS
from ..preferences.collate import pad
from .answers import ScoredAnswer
from .counting import StepOfPairs


def lambda_returns(values: Tensor, rewards: Tensor, ends: Tensor, decay: float) -> Tensor:
    """TD(λ) targets of N answers whose only reward comes at the end.

    values: [N, T], the estimate after each token; rewards: [N]; ends: [N] int64, the column of an answer's last token;
    decay: λ. Returns [N, T] in the values' dtype; what stands behind an answer's end means nothing.
    """
    found = torch.empty_like(values)
    later = rewards.to(values)
    reward = later
    for column in reversed(range(values.shape[1])):
        if column + 1 < values.shape[1]:
            estimate = torch.where(ends == column + 1, reward, values[:, column + 1])
            later = (1 - decay) * estimate + decay * later
        later = torch.where(ends <= column, reward, later)
        found[:, column] = later
    return found


def token_values(model: Any, batch: Mapping[str, Tensor]) -> Tensor:
    """[N, T] float32, the score of a sequence classifier (or of a PeftModel around one) after each token."""
    classifier = model.get_base_model() if isinstance(model, PeftModel) else model
    body = getattr(classifier, str(classifier.base_model_prefix))
    hidden = body(
        input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False
    ).last_hidden_state
    head = next(getattr(classifier, name) for name in HEADS if hasattr(classifier, name))
    values: Tensor = head(hidden)[..., 0]
    return values.float()


@dataclass(frozen=True, slots=True)
class AnswerCollator:
    """N answers to input_ids and attention_mask [N, T] int64, right-padded, states [N, T] bool (from a prompt's last
    token to the answer's), ends [N] int64 and rewards [N] float32."""

    pad_token_id: int

    def __call__(self, answers: Sequence[ScoredAnswer]) -> dict[str, Tensor]:
        ids = [answer["ids"] for answer in answers]
        states = [[int(place + 1 >= one["prompt"]) for place in range(len(one["ids"]))] for one in answers]
        return {
            "input_ids": pad(ids, self.pad_token_id),
            "attention_mask": pad([[1] * len(row) for row in ids], 0),
            "states": pad(states, 0).bool(),
            "ends": torch.tensor([len(row) - 1 for row in ids]),
            "rewards": torch.tensor([answer["reward"] for answer in answers]),
        }


class ValueTrainer(StepOfPairs, Trainer):
    """Hugging Face's training loop on the TD(λ) loss; batches come from `AnswerCollator`.

    decay: λ. Every token of a step counts once, however its answers are spread over micro batches. Evaluation logs the
    loss, and against the rewards that held-out answers earned, over all their tokens: mse, variance (the mse of their
    mean, which is what a head that had learned nothing could reach) and correlation.
    """

    def __init__(self, *args: Any, decay: float, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.decay = decay
        self.model_accepts_loss_kwargs = True  # so that the Trainer leaves the division to compute_loss
        self._seen: list[Tensor] = []

    def items_in(self, batch: Any) -> int:
        return int(batch["states"].sum())

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch; with `return_outputs` also values, targets and rewards of its states, [3, n]."""
        with self.accelerator.autocast():
            values = token_values(self.accelerator.unwrap_model(model), inputs)
        states = inputs["states"]
        targets = lambda_returns(values.detach(), inputs["rewards"], inputs["ends"], self.decay)[states]
        loss = 0.5 * (values[states] - targets).square().mean()
        if num_items_in_batch is not None:
            loss = self.part_of_step(loss, len(targets), num_items_in_batch)
        if not return_outputs:
            return loss
        rewards = inputs["rewards"][:, None].expand_as(states)[states]
        return loss, torch.stack([values[states].detach(), targets, rewards])

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        with torch.no_grad():
            loss, found = self.compute_loss(model, self._prepare_inputs(inputs), return_outputs=True)
        self._seen.append(found)
        return loss, None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "eval_loss" in logs and self._seen:
            logs.update({f"eval_{name}": value for name, value in accuracy_of_values(self._seen).items()})
            self._seen = []
        super().log(logs, start_time)


def accuracy_of_values(found: Sequence[Tensor]) -> dict[str, float]:
    """How near values are to targets and rewards, by pieces [3, n] of the three: the loss, and mse, variance and
    correlation (0 where either is constant) with the rewards."""
    values, targets, rewards = torch.cat(list(found), 1).double().cpu()
    centred, others = values - values.mean(), rewards - rewards.mean()
    spread = centred.norm() * others.norm()
    return {
        "loss": float(0.5 * (values - targets).square().mean()),
        "mse": float((values - rewards).square().mean()),
        "variance": float(others.square().mean()),
        "correlation": float(centred @ others / spread) if spread > 0 else 0.0,
    }
