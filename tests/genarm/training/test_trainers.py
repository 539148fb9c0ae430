"""Three kinds of models, one set of pairs: TRL's trainers see what the AR-RM's sees, and their losses are theirs."""

from __future__ import annotations

import math
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.nn.functional import logsigmoid
from training_cases import run_settings, write_pairs
from transformers import GPT2Config, GPT2LMHeadModel, Trainer

from genarm.errors import GenARMError, InvalidArgumentError
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.collate import IGNORED
from genarm.preferences.scoring import pair_rewards, sequence_scores
from genarm.training.dataset import load_pairs
from genarm.training.models import trained_model
from genarm.training.trainers import TRAINERS


@pytest.fixture
def make(base: str, tmp_path: Path) -> Any:
    data = write_pairs(tmp_path / "pairs.jsonl", 11)
    held_out = write_pairs(tmp_path / "held_out.jsonl", 7, seed=5)

    def make_trainer(kind: str, **changes: Any) -> Trainer:
        settings = run_settings(base, data, kind=kind, eval_data=held_out, **{"beta": 0.5, **changes})
        tokenizer = pair_tokenizer(base)
        pairs = load_pairs(settings, tokenizer)
        model = trained_model(settings, tokenizer, pairs.longest)
        return TRAINERS[settings.kind](settings, model, tokenizer, pairs, tmp_path / "work")

    return make_trainer


def batches(trainer: Trainer) -> list[dict[str, torch.Tensor]]:
    return [*trainer.get_train_dataloader(), *trainer.get_eval_dataloader()]


@pytest.mark.parametrize("kind", ["trajectory-rm", "dpo"])
def test_every_kind_is_trained_on_the_same_tokens_in_the_same_order(make: Any, kind: str) -> None:
    expected, found = batches(make("arm")), batches(make(kind))
    assert len(expected) == len(found) == 3 + 2
    for ours, other in zip(expected, found, strict=True):
        assert torch.equal(other["input_ids"], ours["input_ids"])
        assert torch.equal(other["attention_mask"], ours["attention_mask"])
        if kind == "dpo":
            assert torch.equal(other["completion_mask"], (ours["labels"] != IGNORED).long())


def loss_of(trainer: Trainer, batch: dict[str, torch.Tensor]) -> float:
    model: Any = trainer.model
    return float(trainer.compute_loss(model, dict(batch)).detach())


@pytest.mark.parametrize("center", [0.0, 0.25])
@pytest.mark.parametrize("rank", [0, 2])
def test_the_trajectory_rm_s_loss_is_of_the_scores_at_the_ends(make: Any, center: float, rank: int) -> None:
    trainer = make("trajectory-rm", center_rewards=center, rank=rank)
    batch = next(iter(trainer.get_train_dataloader()))
    chosen, rejected = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].chunk(2)
    expected = (-logsigmoid(chosen - rejected) + center * (chosen + rejected) ** 2).mean()
    assert loss_of(trainer, batch) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert (chosen - rejected).abs().max() > 1e-3


@pytest.mark.parametrize("rank", [0, 2])
def test_dpo_starts_at_ln_2_and_its_reference_stays_the_base(make: Any, rank: int) -> None:
    trainer = make("dpo", rank=rank, learning_rate=3e-2)
    batch = next(iter(trainer.get_train_dataloader()))
    assert loss_of(trainer, batch) == pytest.approx(math.log(2), abs=1e-6)
    held_out = list(trainer.eval_dataset)
    pad = trainer.processing_class.pad_token_id
    before = pair_rewards(trainer.model, held_out, pad)
    trainer.train()
    gained = pair_rewards(trainer.model, held_out, pad) - before
    margins = 0.5 * (gained[:, 0] - gained[:, 1])
    measured = trainer.evaluate()
    assert margins.abs().max() > 0.05
    assert measured["eval_loss"] == pytest.approx(float(-logsigmoid(margins).mean()), rel=1e-3)
    assert measured["eval_rewards/margins"] == pytest.approx(float(margins.mean()), rel=1e-3)
    assert measured["eval_rewards/accuracies"] == pytest.approx(float((margins > 0).double().mean()))


@pytest.mark.parametrize("rank", [0, 2])
def test_a_base_with_dropout_of_its_own_is_the_same_reference_at_every_pass(
    rank: int, base: str, tmp_path: Path
) -> None:
    tokenizer = pair_tokenizer(base)
    config = GPT2Config(vocab_size=len(tokenizer), n_embd=16, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.5)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    settings = run_settings(
        str(tmp_path / "gpt2"), write_pairs(tmp_path / "p.jsonl", 4), kind="dpo", rank=rank, dropout=0.3
    )
    pairs = load_pairs(settings, tokenizer)
    model = trained_model(settings, tokenizer, pairs.longest)
    trainer = TRAINERS["dpo"](settings, model, tokenizer, pairs, tmp_path / "work")
    assert loss_of(trainer, next(iter(trainer.get_train_dataloader()))) == pytest.approx(math.log(2), abs=1e-6)
    assert any(isinstance(module, torch.nn.Dropout) and module.p == 0.3 for module in model.modules()) == bool(rank)


def test_a_policy_is_one_adapter(make: Any) -> None:
    assert list(make("dpo").model.peft_config) == ["default"]


def test_a_trajectory_rm_s_accuracy_counts_every_pair_once(make: Any) -> None:
    trainer = make("trajectory-rm", seed=2)
    trainer.train()
    pairs = [
        {"prompt_ids": pair["chosen_ids"][:1], **{side: pair[side][1:] for side in ("chosen_ids", "rejected_ids")}}
        for pair in trainer.eval_dataset
    ]
    scores = sequence_scores(trainer.model, pairs, trainer.processing_class.pad_token_id)  # type: ignore[arg-type]
    measured = trainer.evaluate()
    margins = scores[:, 0] - scores[:, 1]
    assert measured["eval_margin"] == pytest.approx(float(margins.mean()), rel=1e-3)
    assert measured["eval_accuracy"] == pytest.approx(float((margins > 0).double().mean()))
    assert measured["eval_loss"] == pytest.approx(float(-logsigmoid(margins).mean()), rel=1e-3)


@pytest.mark.parametrize("kind", ["trajectory-rm", "dpo"])
def test_without_trl_the_extra_is_named(make: Any, kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "trl", None)
    with pytest.raises(GenARMError, match=r"TRL is not installed.*pip install 'genarm\[train\]'"):
        make(kind)
    assert make("arm")


def test_dpo_with_an_adapter_on_the_head_is_refused_and_the_ar_rm_takes_it(make: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"cannot train this by DPO.*lm_head"):
        make("dpo", target_modules=("q_proj", "lm_head"))
    trainer = make("arm", target_modules=("q_proj", "lm_head"))
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters() if "lm_head.lora_B" in name}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert before and all(not torch.equal(after[name], weight) for name, weight in before.items())
