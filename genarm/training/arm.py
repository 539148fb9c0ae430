"""The autoregressive reward model (AR-RM): a causal LM whose log-probability of a response is its reward.

    r(x, y) = Σ_t log π_r(y_t | x, y_<t)
    L = −E log σ( β_r · [Σ_t log π_r(y^w_t) − Σ_t log π_r(y^l_t)] )

Sums run over response tokens, the end-of-sequence token included; there is no reference model and no division by
length. Source: GenARM (Xu et al., ICLR 2025).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor
from transformers import Trainer

from ..errors import InvalidArgumentError
from ..preferences.head import response_log_probs


def arm_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """The GenARM loss: the mean over pairs of −log σ(β_r · (chosen − rejected)).

    chosen, rejected: [B], summed response log-probabilities; beta: β_r > 0. Returns a scalar of their dtype.
    """
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def pair_log_probs(model: Any, batch: Mapping[str, Tensor], inner: Any = None) -> tuple[Tensor, Tensor]:
    """Σ_t log π_r of a `PairCollator` batch in one forward pass: chosen [B] and rejected [B].

    ``inner`` is the causal LM itself where ``model`` wraps it (DistributedDataParallel).
    """
    chosen, rejected = response_log_probs(model, batch, inner).sum(1).chunk(2)
    return chosen, rejected


class ArmTrainer(Trainer):
    """Hugging Face's training loop on the GenARM loss; batches come from `PairCollator`.

    beta: β_r of the loss. Everything else is `transformers.Trainer`'s. Logs hold, beside the loss, since the last log:
    accuracy (share of pairs with the larger chosen reward), margin (mean of β_r · (chosen − rejected)), and the mean
    chosen and rejected rewards in nats; evaluation logs the same under ``eval_``.
    """

    def __init__(self, *args: Any, beta: float, **kwargs: Any) -> None:
        if not beta > 0:
            raise InvalidArgumentError(f"beta is {beta}: the loss needs a β_r above 0")
        super().__init__(*args, **kwargs)
        self.beta = beta
        # the loss is a mean over pairs: under gradient accumulation the Trainer itself must divide by the steps
        self.model_accepts_loss_kwargs = False
        self._rewards: defaultdict[bool, list[Tensor]] = defaultdict(list)

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch, a scalar; with `return_outputs` also the summed rewards, chosen and rejected [B]."""
        chosen, rejected = pair_log_probs(model, inputs, self.accelerator.unwrap_model(model))
        rewards = {"chosen": chosen, "rejected": rejected}
        self._rewards[model.training].append(torch.stack([chosen, rejected], 1).detach())
        loss = arm_loss(chosen, rejected, self.beta)
        return (loss, rewards) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss of one evaluation batch; there is nothing else to gather."""
        with torch.no_grad(), self.compute_loss_context_manager():
            return self.compute_loss(model, self._prepare_inputs(inputs)).detach(), None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the rewards since the last log say; waits for the device here and nowhere else."""
        evaluated = any(name.startswith("eval_") for name in logs)
        kept = self._rewards.pop(not evaluated, [])
        if kept and ("loss" in logs or evaluated):
            figures = self._figures(torch.cat(kept))
            logs.update({f"eval_{name}" if evaluated else name: value for name, value in figures.items()})
        super().log(logs, start_time)

    def _figures(self, rewards: Tensor) -> dict[str, float]:
        """Means over all processes' rewards [n, 2], which may differ in number."""
        chosen, rejected = rewards.double().unbind(1)
        right = (chosen > rejected).double()
        columns = torch.stack([torch.ones_like(right), right, self.beta * (chosen - rejected), chosen, rejected], 1)
        reduce: Any = self.accelerator.reduce
        count, *sums = reduce(columns.sum(0), "sum").tolist()
        names = ("accuracy", "margin", "chosen_reward", "rejected_reward")
        return {name: value / count for name, value in zip(names, sums, strict=True)}
