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
from ..models.asleep import SleepingAdapter
from ..preferences.scoring import response_log_probs
from .counting import StepOfPairs


def arm_loss(chosen: Tensor, rejected: Tensor, beta: float, counts: Tensor | None = None) -> Tensor:
    """The GenARM loss: the mean over pairs of −log σ(β_r · (chosen − rejected)).

    chosen, rejected: [B], summed response log-probabilities; beta: β_r > 0; counts: [B], how often each pair is there,
    once if left out. Returns a scalar of their dtype.
    """
    losses = -F.logsigmoid(beta * (chosen - rejected))
    return losses.mean() if counts is None else (counts * losses).sum() / counts.sum()


def pair_log_probs(model: Any, batch: Mapping[str, Tensor], inner: Any = None) -> tuple[Tensor, Tensor]:
    """Σ_t log π_r of a `PairCollator` batch in one forward pass: chosen [B] and rejected [B].

    ``inner`` is the causal LM itself where ``model`` wraps it (DistributedDataParallel).
    """
    chosen, rejected = response_log_probs(model, batch, inner).sum(1).chunk(2)
    return chosen, rejected


class ArmTrainer(StepOfPairs, Trainer):
    """Hugging Face's training loop on the GenARM loss; batches come from `PairCollator`.

    beta: β_r of the loss; asleep: the model's adapter, where that sleeps on prompts, whose activation the collator has.
    Everything else is `transformers.Trainer`'s. Logs hold, beside the loss, since the last log:
    accuracy (share of pairs with the larger chosen reward), margin (mean of β_r · (chosen − rejected)), and the mean
    chosen and rejected rewards in nats; evaluation logs the same under ``eval_``, and leaves the rewards of the
    held-out pairs in ``evaluated`` ([N, 2], chosen and rejected, in the pairs' order). Every pair counts once in all of
    them, in the loss and in its gradient, however pairs are spread over micro batches and processes.
    """

    def __init__(self, *args: Any, beta: float, asleep: SleepingAdapter | None = None, **kwargs: Any) -> None:
        if not beta > 0:
            raise InvalidArgumentError(f"beta is {beta}: the loss needs a β_r above 0")
        super().__init__(*args, **kwargs)
        self.beta = beta
        self.asleep = asleep
        self.model_accepts_loss_kwargs = True  # so that the Trainer leaves the division to compute_loss
        self._rewards: defaultdict[bool, list[Tensor]] = defaultdict(list)
        self.evaluated: Tensor | None = None

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch, a scalar; with `return_outputs` also the summed rewards, chosen and rejected [B].

        ``num_items_in_batch``, the pairs of the whole step, makes it this batch's part of the step's loss.
        """
        if self.asleep is not None:
            self.asleep.read(inputs)
        chosen, rejected = pair_log_probs(model, inputs, self.accelerator.unwrap_model(model))
        loss = arm_loss(chosen, rejected, self.beta)
        if num_items_in_batch is not None:
            self._rewards[False].append(torch.stack([chosen, rejected], 1).detach())
            loss = self.part_of_step(loss, len(chosen), num_items_in_batch)
        return (loss, {"chosen": chosen, "rejected": rejected}) if return_outputs else loss

    def prediction_step(
        self, model: Any, inputs: dict[str, Any], prediction_loss_only: bool, ignore_keys: list[str] | None = None
    ) -> tuple[Tensor | None, Tensor | None, Tensor | None]:
        """The loss of one evaluation batch; the rewards are gathered here, where pairs dealt out twice are known."""
        with torch.no_grad(), self.compute_loss_context_manager():
            loss, rewards = self.compute_loss(model, self._prepare_inputs(inputs), return_outputs=True)
            gather: Any = self.accelerator.gather_for_metrics
            self._rewards[True].append(gather(torch.stack([rewards["chosen"], rewards["rejected"]], 1)))
        return loss, None, None

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        """Adds what the rewards since the last log say; waits for the device here and nowhere else."""
        evaluated = "eval_loss" in logs
        if evaluated or "loss" in logs:
            logs.update(self._figures(evaluated))
        super().log(logs, start_time)

    def _figures(self, evaluated: bool) -> dict[str, float]:
        """Means over the pairs of all processes, which may differ in number."""
        kept = self._rewards.pop(evaluated, [])
        if not kept:
            return {}
        chosen, rejected = torch.cat(kept).double().unbind(1)
        margin = self.beta * (chosen - rejected)
        columns = {"accuracy": (chosen > rejected).double(), "margin": margin}
        columns |= {"chosen_reward": chosen, "rejected_reward": rejected}
        if evaluated:
            self.evaluated = torch.stack([chosen, rejected], 1)
            # the Trainer's own mean counts pairs that were dealt out twice to even out processes
            columns["loss"] = -F.logsigmoid(margin)
        sums = torch.stack([torch.ones_like(chosen), *columns.values()]).sum(1)
        reduce: Any = self.accelerator.reduce
        count, *totals = (sums if evaluated else reduce(sums, "sum")).tolist()
        prefix = "eval_" if evaluated else ""
        return {prefix + name: total / count for name, total in zip(columns, totals, strict=True)}
