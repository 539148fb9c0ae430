"""Every pair of a step counts once in its loss, its gradient and its figures, in an incomplete micro batch too."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor


class StepOfPairs:
    """What the trainers of all kinds share, before `transformers.Trainer` among a class's parents.

    The Trainer divides the loss of a step by its micro batches, of which the last may be smaller; here each micro
    batch's loss is weighed by its pairs, over all processes. And a warm-up that is a share of all steps is rounded
    down: rounded up, as the Trainer does it, a run of one step would be a warm-up alone, at a rate of 0.
    """

    accelerator: Any
    args: Any

    def get_batch_samples(
        self, epoch_iterator: Iterator[Any], num_batches: int, device: torch.device
    ) -> tuple[list[Any], Tensor]:
        """The micro batches of one step, and how many pairs they are over all processes."""
        trainer: Any = super()
        batches, _ = trainer.get_batch_samples(epoch_iterator, num_batches, device)
        pairs = torch.tensor(sum(self.items_in(batch) for batch in batches), device=device)
        total: Tensor = self.accelerator.reduce(pairs, "sum")
        return batches, total

    def items_in(self, batch: Any) -> int:
        """What of a batch counts once: its pairs."""
        return pairs_in(batch)

    def part_of_step(self, loss: Tensor, pairs: int, pairs_of_step: Tensor | int) -> Tensor:
        """A micro batch's mean loss as its part of the step's; gradients of processes are averaged, not summed."""
        part: Tensor = loss * (pairs * self.accelerator.num_processes / pairs_of_step)
        return part

    def create_scheduler(self, num_training_steps: int, optimizer: Any = None) -> Any:
        """The Trainer's schedule, with a whole number of steps to warm up."""
        if self.args.warmup_steps < 1:
            self.args.warmup_steps = int(self.args.warmup_steps * num_training_steps)
        trainer: Any = super()
        return trainer.create_scheduler(num_training_steps, optimizer)


def pairs_in(batch: Any) -> int:
    """Pairs of a batch whose rows are the chosen responses and then the rejected ones."""
    return len(batch["input_ids"]) // 2
