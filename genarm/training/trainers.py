"""One trainer per kind of model, on the same arguments: ours for the AR-RM and the value head, TRL's for the others."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor
from transformers import Trainer, TrainingArguments

from ..errors import GenARMError, InvalidArgumentError
from ..models.asleep import SleepingAdapter
from ..models.loading import load_model
from ..models.options import Source
from ..preferences.collate import PairCollator
from ..preferences.encoding import EncodedPair
from .answers import AnswerSets
from .arm import ArmTrainer
from .counting import StepOfPairs, pairs_in
from .dataset import PairSets
from .models import trained_in_float32
from .parm import ObjectiveCollator, ParmTrainer
from .settings import Kind, TrainingSettings
from .value import AnswerCollator, ValueTrainer


def arm_trainer(settings: TrainingSettings, model: Any, tokenizer: Any, pairs: PairSets, work: Path) -> Trainer:
    """The GenARM loss."""
    return ArmTrainer(
        model=model,
        args=TrainingArguments(**settings.arguments(work, bool(pairs.held_out))),
        beta=settings.beta,
        asleep=None if pairs.activation is None else SleepingAdapter(model, pairs.activation),
        train_dataset=pairs.train,
        eval_dataset=pairs.held_out or None,
        data_collator=PairCollator(tokenizer.pad_token_id, activation=pairs.activation),
        processing_class=tokenizer,
    )


def parm_trainer(settings: TrainingSettings, model: Any, tokenizer: Any, pairs: PairSets, work: Path) -> Trainer:
    """The GenARM loss of several objectives, under preferences."""
    count = len(settings.objectives)
    return ParmTrainer(
        model=model,
        args=TrainingArguments(**settings.arguments(work, bool(pairs.held_out))),
        settings=settings,
        counts=[sum(pair["objective"] == one for pair in pairs.train) for one in range(count)],
        train_dataset=pairs.train,
        eval_dataset=pairs.held_out or None,
        data_collator=ObjectiveCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    )


def trajectory_trainer(settings: TrainingSettings, model: Any, tokenizer: Any, pairs: PairSets, work: Path) -> Trainer:
    """−log σ(r_w − r_l) on whole sequences, by TRL's RewardTrainer."""
    trl = _trl()

    class EncodedPairsTrainer(PairsCountOnce, trl.RewardTrainer):  # type: ignore[misc, name-defined]
        pass

    trainer: Trainer = EncodedPairsTrainer(
        model=model,
        args=trl.RewardConfig(
            **settings.arguments(work, bool(pairs.held_out)),
            max_length=None,
            disable_dropout=False,
            center_rewards_coefficient=settings.center_rewards or None,
        ),
        train_dataset=_rows([whole(pair) for pair in pairs.train]),
        eval_dataset=_rows([whole(pair) for pair in pairs.held_out]) if pairs.held_out else None,
        processing_class=tokenizer,
    )
    trained_in_float32(model)  # TRL makes it bfloat16 on a base in 4 bits
    return trainer


def dpo_trainer(settings: TrainingSettings, model: Any, tokenizer: Any, pairs: PairSets, work: Path) -> Trainer:
    """−log σ(β [Δ log π − Δ log π_ref]), by TRL's DPOTrainer; the reference is the base itself."""
    trl = _trl()

    class EncodedPairsTrainer(PairsCountOnce, trl.DPOTrainer):  # type: ignore[misc, name-defined]
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset  # tokens already

    source = Source(model.dtype, model.device, settings.trust_remote_code)
    try:
        trainer: Trainer = EncodedPairsTrainer(
            model=model,
            ref_model=None if settings.rank else load_model(settings.base, source),
            args=trl.DPOConfig(
                **settings.arguments(work, bool(pairs.held_out)),
                beta=settings.beta,
                max_length=None,
                disable_dropout=False,
            ),
            train_dataset=_rows([without_margin(pair) for pair in pairs.train]),
            eval_dataset=_rows([without_margin(pair) for pair in pairs.held_out]) if pairs.held_out else None,
            processing_class=tokenizer,
        )
    except ValueError as error:  # an adapter on the head, say
        raise InvalidArgumentError(f"TRL cannot train this by DPO: {error}") from error
    trained_in_float32(model)
    if settings.rank:
        model.delete_adapter("ref")  # TRL's copy of the fresh adapter: without it, it takes the bare base
    return trainer


class PairsCountOnce(StepOfPairs):
    """TRL averages losses and figures over micro batches; here every pair counts once, in a smaller batch too."""

    _metrics: Any

    def __init__(self, *arguments: Any, **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.model_accepts_loss_kwargs = True  # so that the Trainer leaves the division to compute_loss

    def compute_loss(
        self, model: Any, inputs: Any, return_outputs: bool = False, num_items_in_batch: Tensor | int | None = None
    ) -> Any:
        """TRL's loss of one micro batch; with ``num_items_in_batch``, the pairs of the step, its part of that."""
        trainer: Any = super()
        found = trainer.compute_loss(model, inputs, return_outputs=return_outputs)
        if num_items_in_batch is None:
            return found
        loss, *outputs = found if return_outputs else (found,)
        self._count("train", pairs_in(inputs))
        loss = self.part_of_step(loss, pairs_in(inputs), num_items_in_batch)
        return (loss, *outputs) if return_outputs else loss

    def prediction_step(self, model: Any, inputs: Any, *arguments: Any, **options: Any) -> Any:
        trainer: Any = super()
        found = trainer.prediction_step(model, inputs, *arguments, **options)
        self._count("eval", pairs_in(inputs))
        return found

    def _count(self, mode: str, pairs: int) -> None:
        """The last batch's figures, once per pair."""
        for values in self._metrics[mode].values():
            values.extend(values[-1:] * (pairs - 1))


def value_trainer(settings: TrainingSettings, model: Any, tokenizer: Any, answers: AnswerSets, work: Path) -> Trainer:
    """½ MSE to TD(λ) targets."""
    return ValueTrainer(
        model=model,
        args=TrainingArguments(**settings.arguments(work, bool(answers.held_out))),
        decay=settings.trace_decay,
        train_dataset=answers.train,
        eval_dataset=answers.held_out or None,
        data_collator=AnswerCollator(tokenizer.pad_token_id),
        processing_class=tokenizer,
    )


TRAINERS: dict[Kind, Callable[[TrainingSettings, Any, Any, Any, Path], Trainer]] = {
    "arm": arm_trainer,
    "parm": parm_trainer,
    "trajectory-rm": trajectory_trainer,
    "dpo": dpo_trainer,
    "value": value_trainer,
}


def whole(pair: EncodedPair) -> dict[str, Any]:
    """Prompt and response as one sequence each, TRL's form for a scorer, with the margin of its loss."""
    both = {f"{side}_ids": pair["prompt_ids"] + pair[f"{side}_ids"] for side in ("chosen", "rejected")}  # type: ignore[literal-required]
    return {**both, "margin": pair["margin"]} if "margin" in pair else both


def without_margin(pair: EncodedPair) -> dict[str, Any]:
    """The ids alone: DPO's loss has no margin."""
    return {name: value for name, value in pair.items() if name != "margin"}


def _rows(items: Sequence[Any]) -> Any:
    from datasets import Dataset

    return Dataset.from_list(list(items))


def _trl() -> Any:
    try:
        import trl
    except ImportError:
        raise GenARMError(
            "TRL is not installed, and it trains this kind of model: pip install 'genarm[train]'"
        ) from None
    return trl
