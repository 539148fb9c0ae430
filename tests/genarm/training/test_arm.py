"""The GenARM loss: what it sums, what it leaves out, and that training on it orders pairs."""

import math

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM, TrainingArguments

from genarm.training.arm import ArmTrainer, arm_loss, pair_accuracy, pair_log_probs, pair_rewards, response_log_probs
from genarm.preferences.collate import IGNORED, PairCollator

PAD, EOS = 2, 1


def tiny_model(seed: int = 0) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=24,
            hidden_size=32,
            intermediate_size=48,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            max_position_embeddings=64,
            initializer_range=0.3,
        )
    ).eval()


def pair(chosen: list[int], rejected: list[int], prompt: list[int]) -> dict[str, list[int]]:
    sides = {"chosen": [*chosen, EOS], "rejected": [*rejected, EOS]}
    encoded = {f"{side}_ids": prompt + ids for side, ids in sides.items()}
    return {**encoded, **{f"{side}_labels": [IGNORED] * len(prompt) + ids for side, ids in sides.items()}}


PAIRS = [pair([5, 6], [7], [0, 8, 9]), pair([10], [11, 12, 13, 14], [0]), pair([3, 3, 3], [4, 4], [0, 20])]


def by_hand(model: LlamaForCausalLM, prompt: list[int], response: list[int]) -> float:
    """Σ_t log π(y_t) in float64, one forward pass a token, no padding, no batch, softmax written out."""
    total, ids = 0.0, list(prompt)
    for token in response:
        logits = model(torch.tensor([ids])).logits[0, -1].double()
        weights = [math.exp(value) for value in (logits - logits.max()).tolist()]
        total += math.log(weights[token] / sum(weights))
        ids.append(token)
    return total


@torch.no_grad()
def test_the_loss_is_the_float64_computation_by_hand():
    model, beta = tiny_model(), 0.3
    chosen, rejected, _ = pair_log_probs(model, PairCollator(PAD)(PAIRS))
    losses = []
    for row, item in enumerate(PAIRS):
        rewards = {}
        for side in ("chosen", "rejected"):
            start = item[f"{side}_labels"].count(IGNORED)
            ids = item[f"{side}_ids"]
            rewards[side] = by_hand(model, ids[:start], ids[start:])
        assert chosen[row] == pytest.approx(rewards["chosen"], abs=1e-4)
        assert rejected[row] == pytest.approx(rewards["rejected"], abs=1e-4)
        losses.append(math.log1p(math.exp(-beta * (rewards["chosen"] - rewards["rejected"]))))
    assert float(arm_loss(chosen, rejected, beta)) == pytest.approx(sum(losses) / len(losses), abs=1e-5)


def test_float64_logits_are_summed_in_float64():
    logits = torch.randn(2, 4, 7, dtype=torch.float64)
    labels = torch.tensor([[IGNORED, 3, 4, 1], [IGNORED, IGNORED, 5, 1]])
    log_probs = logits.log_softmax(-1)
    expected = [
        log_probs[0, 0, 3] + log_probs[0, 1, 4] + log_probs[0, 2, 1],
        log_probs[1, 1, 5] + log_probs[1, 2, 1],
    ]
    got = response_log_probs(logits, labels)
    assert got.dtype == torch.float64
    torch.testing.assert_close(got, torch.stack(expected), rtol=0, atol=1e-12)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_logits_are_summed_in_float32(dtype):
    logits, labels = torch.randn(3, 5, 11).to(dtype), torch.randint(0, 11, (3, 5))
    got = response_log_probs(logits, labels)
    assert got.dtype == torch.float32
    torch.testing.assert_close(got, response_log_probs(logits.float(), labels), rtol=0, atol=0)


@torch.no_grad()
def test_eos_counts():
    model = tiny_model()
    batch = PairCollator(PAD)(PAIRS)
    whole, _, outputs = pair_log_probs(model, batch)
    without = batch["labels"].masked_fill(batch["labels"] == EOS, IGNORED)
    difference = whole - response_log_probs(outputs.logits, without)[: len(PAIRS)]
    assert (difference < -1e-3).all()


@torch.no_grad()
def test_prompt_tokens_and_padding_do_not_count():
    batch = PairCollator(PAD)(PAIRS)
    logits = tiny_model()(batch["input_ids"], attention_mask=batch["attention_mask"]).logits
    changed = logits.clone()
    predicts_nothing = torch.cat([batch["labels"][:, 1:], torch.full((len(logits), 1), IGNORED)], 1) == IGNORED
    changed[predicts_nothing] = torch.randn_like(changed[predicts_nothing]) * 10
    torch.testing.assert_close(
        response_log_probs(changed, batch["labels"]), response_log_probs(logits, batch["labels"]), rtol=0, atol=0
    )


@torch.no_grad()
def test_a_reward_does_not_depend_on_the_batch_or_its_order():
    model = tiny_model()
    together = pair_rewards(model, PAIRS, PAD, batch_size=8)
    alone = torch.cat([pair_rewards(model, [item], PAD) for item in PAIRS])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(pair_rewards(model, PAIRS[::-1], PAD, batch_size=2).flip(0), alone, rtol=0, atol=1e-5)


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected():
    chosen = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: arm_loss(a, b, 0.1), (chosen, rejected))
    arm_loss(chosen, rejected, 0.1).backward()
    assert (chosen.grad < 0).all() and (rejected.grad > 0).all()


def test_the_loss_is_finite_for_margins_of_any_size():
    loss = arm_loss(torch.tensor([-1e4]), torch.tensor([1e4]), 0.1)
    assert float(loss) == pytest.approx(2000.0)
    assert float(arm_loss(torch.tensor([1e4]), torch.tensor([-1e4]), 0.1)) == 0.0


def test_labels_of_another_shape_are_refused():
    with pytest.raises(ValueError, match="must agree"):
        response_log_probs(torch.zeros(2, 3, 5), torch.zeros(2, 4, dtype=torch.int64))


def test_accuracy_counts_strictly_larger_rewards():
    nan = float("nan")
    assert pair_accuracy(torch.tensor([[1.0, 0.0], [0.0, 1.0], [2.0, 2.0], [nan, 0.0]])) == 0.25
    with pytest.raises(ValueError, match="no pairs"):
        pair_accuracy(torch.empty(0, 2))


def test_scoring_leaves_the_mode_of_the_model_as_it_was():
    model = tiny_model().train()
    pair_rewards(model, PAIRS, PAD)
    assert model.training


def arguments(directory, **changes) -> TrainingArguments:
    settings = {
        "output_dir": str(directory),
        "per_device_train_batch_size": 3,
        "learning_rate": 3e-3,
        "max_steps": 12,
        "save_strategy": "no",
        "report_to": "none",
        "remove_unused_columns": False,
        "use_cpu": True,
        "disable_tqdm": True,
        "dataloader_pin_memory": False,
    }
    return TrainingArguments(**{**settings, **changes})


def trainer(directory, model, **changes) -> ArmTrainer:
    data = [{**item} for item in PAIRS]
    return ArmTrainer(
        model=model, args=arguments(directory, **changes), beta=0.5, train_dataset=data, data_collator=PairCollator(PAD)
    )


def test_training_orders_the_pairs_and_lowers_the_loss(tmp_path):
    model = tiny_model(seed=3)
    before = pair_rewards(model, PAIRS, PAD)
    trainer(tmp_path, model).train()
    after = pair_rewards(model, PAIRS, PAD)
    assert arm_loss(after[:, 0], after[:, 1], 0.5) < arm_loss(before[:, 0], before[:, 1], 0.5)
    assert pair_accuracy(after) == 1.0


def test_gradient_accumulation_takes_the_step_of_the_whole_batch(tmp_path):
    models = [tiny_model(seed=5), tiny_model(seed=5)]
    sgd = {"optim": "sgd", "learning_rate": 0.05, "max_steps": 1, "max_grad_norm": 0.0, "lr_scheduler_type": "constant"}
    trainer(tmp_path, models[0], **sgd).train()
    trainer(tmp_path, models[1], per_device_train_batch_size=1, gradient_accumulation_steps=3, **sgd).train()
    for whole, accumulated in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(whole, accumulated, rtol=0, atol=1e-5)


def test_a_beta_of_zero_is_refused(tmp_path):
    with pytest.raises(ValueError, match="above 0"):
        ArmTrainer(model=tiny_model(), args=arguments(tmp_path), beta=0.0)


def test_the_trainer_can_return_the_outputs(tmp_path):
    model = tiny_model()
    loss, outputs = trainer(tmp_path, model).compute_loss(model, PairCollator(PAD)(PAIRS), return_outputs=True)
    chosen, rejected = response_log_probs(outputs.logits, PairCollator(PAD)(PAIRS)["labels"]).chunk(2)
    torch.testing.assert_close(loss, arm_loss(chosen, rejected, 0.5))
