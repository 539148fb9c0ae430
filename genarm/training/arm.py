"""The autoregressive reward model (AR-RM): a causal LM whose log-probability of a response is its reward.

    r(x, y) = Σ_t log π_r(y_t | x, y_<t)
    L = −E log σ( β_r · [Σ_t log π_r(y^w_t) − Σ_t log π_r(y^l_t)] )

Sums run over response tokens, the end-of-sequence token included; there is no reference model and no division by
length. Source: GenARM (Xu et al., ICLR 2025).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from rich.progress import track
from torch import Tensor
from transformers import PreTrainedModel, Trainer

from genarm.training.data import IGNORED, EncodedPair, PairCollator


def response_log_probs(logits: Tensor, labels: Tensor) -> Tensor:
    """Σ_t log π(y_t | x, y_<t) of each sequence: its reward under an AR-RM.

    logits: [N, T, V] of any float type, position t predicting token t + 1.
    labels: [N, T] int64, the token ids of the response and -100 elsewhere (prompt and padding).
    Returns [N] float32 (float64 for float64 logits); 0 for a sequence without response tokens.
    """
    if logits.shape[:2] != labels.shape:
        raise ValueError(f"logits are {list(logits.shape)}, labels {list(labels.shape)}: both [N, T] must agree")
    predicted = logits[:, :-1]
    if predicted.dtype in (torch.float16, torch.bfloat16):
        predicted = predicted.float()
    targets = labels[:, 1:]
    losses = F.cross_entropy(predicted.transpose(1, 2), targets, ignore_index=IGNORED, reduction="none")
    return -losses.sum(dim=1)


def arm_loss(chosen: Tensor, rejected: Tensor, beta: float) -> Tensor:
    """The GenARM loss: the mean over pairs of −log σ(β_r · (chosen − rejected)).

    chosen, rejected: [B], summed response log-probabilities; beta: β_r > 0. Returns a scalar of their dtype.
    """
    return -F.logsigmoid(beta * (chosen - rejected)).mean()


def pair_log_probs(model: PreTrainedModel, batch: Mapping[str, Tensor]) -> tuple[Tensor, Tensor, Any]:
    """One forward pass over a `PairCollator` batch: chosen [B] and rejected [B] log-probabilities, and the output."""
    outputs = model(input_ids=batch["input_ids"], attention_mask=batch["attention_mask"], use_cache=False)
    chosen, rejected = response_log_probs(outputs.logits, batch["labels"]).chunk(2)
    return chosen, rejected, outputs


class ArmTrainer(Trainer):
    """Hugging Face's training loop on the GenARM loss; batches come from `PairCollator`.

    beta: β_r of the loss. Everything else is `transformers.Trainer`'s.
    """

    def __init__(self, *args: Any, beta: float, **kwargs: Any) -> None:
        if not beta > 0:
            raise ValueError(f"beta is {beta}; the loss needs a β_r above 0")
        super().__init__(*args, **kwargs)
        self.beta = beta
        # the loss is a mean over pairs: under gradient accumulation the Trainer itself must divide by the steps
        self.model_accepts_loss_kwargs = False

    def compute_loss(
        self,
        model: Any,
        inputs: dict[str, Any],
        return_outputs: bool = False,
        num_items_in_batch: Tensor | int | None = None,
    ) -> Any:
        """The loss of one batch, a scalar; with `return_outputs` also the model's output."""
        chosen, rejected, outputs = pair_log_probs(model, inputs)
        loss = arm_loss(chosen, rejected, self.beta)
        return (loss, outputs) if return_outputs else loss


@torch.no_grad()
def pair_rewards(
    model: PreTrainedModel,
    pairs: Sequence[EncodedPair],
    pad_token_id: int,
    batch_size: int = 64,
    progress: bool = False,
) -> Tensor:
    """Rewards of encoded pairs under a model: [N, 2] float32 on the CPU, column 0 chosen and column 1 rejected.

    Similar lengths share a batch, so that little is spent on padding; rows come back in the order given. Whatever
    mode the model was in, it is scored in eval mode and left as it was.
    """
    order = sorted(range(len(pairs)), key=lambda i: len(pairs[i]["chosen_ids"]) + len(pairs[i]["rejected_ids"]))
    collate = PairCollator(pad_token_id)
    rewards = torch.empty(len(pairs), 2)
    training = model.training
    model.train(False)
    for start in track(range(0, len(order), batch_size), "scoring pairs", disable=not progress):
        rows = order[start : start + batch_size]
        batch = {name: tensor.to(model.device) for name, tensor in collate([pairs[i] for i in rows]).items()}
        chosen, rejected, _ = pair_log_probs(model, batch)
        rewards[rows] = torch.stack([chosen, rejected], dim=1).float().cpu()
    model.train(training)
    return rewards


def pair_accuracy(rewards: Tensor) -> float:
    """Share of pairs [N, 2] whose chosen response has strictly the larger reward; a tie (or NaN) counts as wrong."""
    if len(rewards) == 0:
        raise ValueError("no pairs to measure an accuracy on")
    return float((rewards[:, 0] > rewards[:, 1]).float().mean())
