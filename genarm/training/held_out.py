"""Which of the held-out pairs the trained model orders right, one by one: what an interval is made of."""

from __future__ import annotations

from contextlib import nullcontext
from typing import Any

import numpy as np
from numpy.typing import NDArray

from ..preferences.scoring import pair_rewards, sequence_scores
from .arm import ArmTrainer
from .dataset import PairSets
from .settings import TrainingSettings


def ordered_right(trainer: Any, settings: TrainingSettings, pairs: PairSets) -> NDArray[np.bool_]:
    """[N] whether each held-out pair's chosen response has the larger score, after the trainer's last evaluation.

    An AR-RM's trainer has kept its rewards; TRL's keep means only, so those pairs are scored once more.
    """
    if isinstance(trainer, ArmTrainer) and trainer.evaluated is not None:
        rewards = trainer.evaluated.cpu()
        return np.asarray(rewards[:, 0] > rewards[:, 1])
    model = trainer.accelerator.unwrap_model(trainer.model)
    options = (pairs.held_out, trainer.processing_class.pad_token_id, trainer.args.per_device_eval_batch_size)
    with trainer.compute_loss_context_manager():
        score = sequence_scores if settings.kind == "trajectory-rm" else pair_rewards
        scores = score(model, *options)
        if settings.kind == "dpo":
            without = model.disable_adapter() if settings.rank else nullcontext()
            with without:
                scores -= pair_rewards(model if settings.rank else trainer.ref_model, *options)
    return np.asarray(scores[:, 0] > scores[:, 1])
