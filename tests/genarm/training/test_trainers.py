"""Three kinds of models, one set of pairs: TRL's trainers see what the AR-RM's sees, and their losses are theirs."""

import math
import sys

import pytest
import torch
from torch.nn.functional import logsigmoid
from training_cases import run_settings, write_pairs
from transformers import GPT2Config, GPT2LMHeadModel

from genarm.errors import GenARMError, InvalidArgumentError
from genarm.preferences.chat import pair_tokenizer
from genarm.preferences.collate import IGNORED
from genarm.training.dataset import load_pairs
from genarm.training.models import trained_model
from genarm.training.trainers import TRAINERS


@pytest.fixture
def make(base, held_out, tmp_path):
    data = write_pairs(tmp_path / "pairs.jsonl", 11)

    def make_trainer(kind, model_folder=base, data=data, **changes):
        changes = {"eval_data": held_out, "beta": 0.5, **changes}
        settings = run_settings(model_folder, data, kind=kind, **changes)
        tokenizer = pair_tokenizer(base)
        pairs = load_pairs(settings, tokenizer)
        model = trained_model(settings, tokenizer, pairs.longest)
        return TRAINERS[settings.kind](settings, model, tokenizer, pairs, tmp_path / "work")

    return make_trainer


def batches(trainer):
    return [*trainer.get_train_dataloader(), *trainer.get_eval_dataloader()]


def loss_of(trainer, batch):
    return float(trainer.compute_loss(trainer.model, dict(batch)).detach())


def test_every_kind_is_trained_on_the_same_tokens_in_the_same_order(make):
    expected, scored, tuned = (batches(make(kind)) for kind in ("arm", "trajectory-rm", "dpo"))
    assert len(expected) == len(scored) == len(tuned) == 3 + 2
    for ours, *others in zip(expected, scored, tuned, strict=True):
        assert all(torch.equal(other[name], ours[name]) for other in others for name in ("input_ids", "attention_mask"))
        assert torch.equal(others[1]["completion_mask"], (ours["labels"] != IGNORED).long())


@pytest.mark.parametrize(("center", "rank"), [(0.0, 2), (0.25, 0)])
def test_the_trajectory_rm_s_loss_is_of_the_scores_at_the_ends(make, center, rank):
    trainer = make("trajectory-rm", center_rewards=center, rank=rank)
    batch = next(iter(trainer.get_train_dataloader()))
    chosen, rejected = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].chunk(2)
    expected = (-logsigmoid(chosen - rejected) + center * (chosen + rejected) ** 2).mean()
    assert loss_of(trainer, batch) == pytest.approx(float(expected.detach()), rel=1e-5)
    assert (chosen - rejected).abs().max() > 1e-3


def test_a_row_s_margin_is_what_a_trajectory_rm_s_scores_should_differ_by(make, base, tmp_path):
    data = write_pairs(tmp_path / "margins.jsonl", 4, margin=3.5)
    trainer = make("trajectory-rm", data=data, eval_data=None)
    batch = next(iter(trainer.get_train_dataloader()))
    chosen, rejected = trainer.model(batch["input_ids"], attention_mask=batch["attention_mask"]).logits[:, 0].chunk(2)
    expected = -logsigmoid(chosen - rejected - 3.5).mean()
    assert loss_of(trainer, batch) == pytest.approx(float(expected.detach()), rel=1e-5)
    for kind in ("arm", "dpo"):
        batch = next(iter(make(kind, data=data, eval_data=None).get_train_dataloader()))
        assert "margin" not in batch
        settings = run_settings(base, data, kind=kind)
        assert load_pairs(settings, pair_tokenizer(base)).notes == ["columns that nothing is learned from: margin"]
    some = write_pairs(tmp_path / "pairs.jsonl", 2)
    with pytest.raises(InvalidArgumentError, match="4 of 6 pairs have a margin"):
        make("trajectory-rm", data=(data, some), eval_data=None)


@pytest.mark.parametrize("rank", [0, 2])
def test_dpo_starts_at_ln_2_also_on_a_base_with_dropout_of_its_own(rank, base, make, tmp_path):
    vocab = len(pair_tokenizer(base))
    config = GPT2Config(vocab_size=vocab, n_embd=16, n_layer=2, n_head=2, n_positions=64, resid_pdrop=0.5)
    GPT2LMHeadModel(config).save_pretrained(tmp_path / "gpt2")
    trainer = make("dpo", str(tmp_path / "gpt2"), rank=rank, dropout=0.3)
    assert loss_of(trainer, next(iter(trainer.get_train_dataloader()))) == pytest.approx(math.log(2), abs=1e-6)
    modules = trainer.model.modules()
    assert any(isinstance(module, torch.nn.Dropout) and module.p == 0.3 for module in modules) == bool(rank)
    if rank:  # a policy is one adapter
        assert list(trainer.model.peft_config) == ["default"]


def test_without_trl_the_extra_is_named_and_the_ar_rm_trains(make, monkeypatch):
    monkeypatch.setitem(sys.modules, "trl", None)
    for kind in ("trajectory-rm", "dpo"):
        with pytest.raises(GenARMError, match=r"TRL is not installed.*pip install 'genarm\[train\]'"):
            make(kind)
    assert make("arm")


def test_dpo_with_an_adapter_on_the_head_is_refused_and_the_ar_rm_takes_it(make):
    with pytest.raises(InvalidArgumentError, match=r"cannot train this by DPO.*lm_head"):
        make("dpo", target_modules=("q_proj", "lm_head"))
    trainer = make("arm", target_modules=("q_proj", "lm_head"))
    before = {name: weight.clone() for name, weight in trainer.model.named_parameters() if "lm_head.lora_B" in name}
    trainer.train()
    after = dict(trainer.model.named_parameters())
    assert before and all(not torch.equal(after[name], weight) for name, weight in before.items())
