"""The GenARM loss: what it sums, what it leaves out, its gradient, and that training on it orders pairs."""

import math

import pytest
import torch
from families import make_model
from peft import LoraConfig, get_peft_model
from training_cases import ragged_pairs
from transformers import TrainingArguments

from genarm.errors import InvalidArgumentError
from genarm.preferences.collate import PairCollator
from genarm.preferences.scoring import pair_rewards
from genarm.training.arm import ArmTrainer, arm_loss, pair_log_probs

PAIRS = ragged_pairs(5)
SIDES = ("chosen_ids", "rejected_ids")


def full_model(family="llama", tie=False):
    """transformers' RMSNorm rounds to float32 whatever the model's dtype; torch's is the same in float64."""
    model = make_model(family, seed=4, tie=tie).double()
    for name, norm in list(model.named_modules()):
        if type(norm).__name__ == "LlamaRMSNorm":
            exact = torch.nn.RMSNorm(norm.weight.shape, norm.variance_epsilon, dtype=torch.float64)
            exact.weight.data.copy_(norm.weight)
            model.set_submodule(name, exact)
    return model


def lora_model(family="llama"):
    model = full_model(family)
    torch.manual_seed(1)
    targets = ["c_attn", "c_fc"] if family == "gpt2" else ["q_proj", "v_proj", "gate_proj"]
    wrapped = get_peft_model(model, LoraConfig(r=3, lora_alpha=6, target_modules=targets)).double()
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.2)
    return wrapped.eval()


MODELS = {
    "tied": lambda: full_model(tie=True),
    "full": full_model,
    "LoRA": lora_model,
    "LoRA on GPT-2": lambda: lora_model("gpt2"),
}


def loop_reward(model, prompt, response):
    """Σ_t log π(y_t) in float64: one forward pass per token, no padding, no batch, the softmax written out."""
    total, ids = torch.zeros((), dtype=torch.float64), list(prompt)
    for token in response:
        weights = model(torch.tensor([ids])).logits[0, -1].exp()
        total = total + torch.log(weights[token] / weights.sum())
        ids.append(token)
    return total


def loop_loss(model, beta):
    losses = []
    for pair in PAIRS:
        chosen, rejected = (loop_reward(model, pair["prompt_ids"], pair[side]) for side in SIDES)
        losses.append(torch.log(1 + torch.exp(-beta * (chosen - rejected))))
    return sum(losses) / len(losses)


def gradients(model, loss):
    trained = {name: weight for name, weight in model.named_parameters() if weight.requires_grad}
    return dict(zip(trained, torch.autograd.grad(loss, list(trained.values())), strict=True))


@pytest.mark.parametrize("name", MODELS)
def test_the_loss_and_its_gradient_are_the_float64_loop(name):
    model, beta = MODELS[name](), 0.3
    loss = arm_loss(*pair_log_probs(model, PairCollator(0)(PAIRS)), beta)
    expected = loop_loss(model, beta)
    assert expected > 0.1
    torch.testing.assert_close(loss, expected, rtol=1e-8, atol=0)
    got, wanted = gradients(model, loss), gradients(model, expected)
    assert got.keys() == wanted.keys() and all(("lora_" in key) == ("LoRA" in name) for key in got)
    for key, gradient in wanted.items():
        assert gradient.abs().max() > 0, key
        torch.testing.assert_close(got[key], gradient, rtol=1e-8, atol=1e-9 * float(gradient.abs().max()))


def test_the_gradient_raises_the_chosen_and_lowers_the_rejected_for_margins_of_any_size():
    chosen = torch.tensor([1.0, -2.0], dtype=torch.float64, requires_grad=True)
    rejected = torch.tensor([0.5, 3.0], dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda a, b: arm_loss(a, b, 0.1), (chosen, rejected))
    arm_loss(chosen, rejected, 0.1).backward()
    assert (chosen.grad < 0).all() and (rejected.grad > 0).all()
    assert float(arm_loss(torch.tensor([-1e4]), torch.tensor([1e4]), 0.1)) == pytest.approx(2000.0)
    assert float(arm_loss(torch.tensor([1e4]), torch.tensor([-1e4]), 0.1)) == 0.0


@torch.no_grad()
def test_rewards_are_sums_with_eos_and_not_means():
    model = make_model("llama")
    shorter = [{**pair, "chosen_ids": pair["chosen_ids"][:-1] or [3]} for pair in PAIRS]
    whole, _ = pair_log_probs(model, PairCollator(0)(PAIRS))
    without, _ = pair_log_probs(model, PairCollator(0)(shorter))
    longer = [len(pair["chosen_ids"]) > 1 for pair in PAIRS]
    assert (whole < without - 1e-3)[longer].all() and sum(longer) > 2


STILL = {"learning_rate": 0.0, "logging_steps": 2}
SGD = {"optim": "sgd", "learning_rate": 0.02, "max_grad_norm": 0.0, "lr_scheduler_type": "constant", "max_steps": -1}


def trainer(folder, model, held_out=None, **changes):
    settings = {"per_device_train_batch_size": 3, "per_device_eval_batch_size": 2, "learning_rate": 3e-3}
    settings |= {"save_strategy": "no", "report_to": "none", "remove_unused_columns": False, "use_cpu": True}
    settings |= {"disable_tqdm": True, "dataloader_pin_memory": False, "logging_steps": 1, "max_steps": 12, **changes}
    pairs = {"train_dataset": [dict(pair) for pair in PAIRS], "eval_dataset": held_out}
    arguments = TrainingArguments(str(folder), **settings)
    return ArmTrainer(model=model, args=arguments, beta=0.5, data_collator=PairCollator(0), **pairs)


def test_training_orders_the_pairs_and_lowers_the_loss(tmp_path):
    model = make_model("llama", seed=3)
    before = pair_rewards(model, PAIRS, 0)
    trainer(tmp_path, model, max_steps=20).train()
    after = pair_rewards(model, PAIRS, 0)
    assert not (before[:, 0] > before[:, 1]).all() and (after[:, 0] > after[:, 1]).all()
    assert arm_loss(after[:, 0], after[:, 1], 0.5) < arm_loss(before[:, 0], before[:, 1], 0.5)


# Pairs per step and per forward pass, of five pairs: all in one step, or a last step of one.
@pytest.mark.parametrize(("name", "whole", "micro"), [("full", 5, 4), ("LoRA", 5, 2), ("LoRA", 4, 1)])
def test_gradient_accumulation_takes_the_steps_of_whole_batches(name, whole, micro, tmp_path):
    start, *models = (MODELS[name]() for _ in range(3))
    losses = []
    for model, size in zip(models, (whole, micro), strict=True):
        accumulated = {"per_device_train_batch_size": size, "gradient_accumulation_steps": -(-whole // size)}
        run = trainer(tmp_path, model, **SGD, **accumulated, num_train_epochs=1)
        run.train()
        losses.append([logs["loss"] for logs in run.state.log_history if "loss" in logs])
    assert len(losses[0]) == -(-len(PAIRS) // whole)
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)
    moved = 0.0
    for before, one, other in zip(*(model.parameters() for model in (start, *models)), strict=True):
        torch.testing.assert_close(one, other, rtol=0, atol=1e-9)
        moved = max(moved, float((one - before).detach().abs().max()))
    assert moved > 1e-4


def figures(rewards):
    """What logs hold of rewards [N, 2], by hand, at β_r = 0.5."""
    margins = [0.5 * (chosen - rejected) for chosen, rejected in rewards.tolist()]
    return {
        "accuracy": sum(margin > 0 for margin in margins) / len(margins),
        "margin": sum(margins) / len(margins),
        "chosen_reward": float(rewards[:, 0].mean()),
        "rejected_reward": float(rewards[:, 1].mean()),
        "loss": sum(math.log1p(math.exp(-margin)) for margin in margins) / len(margins),
    }


def test_live_figures_are_those_of_the_pairs_since_the_last_log(tmp_path):
    run = trainer(tmp_path, make_model("llama"), **STILL, max_steps=4, gradient_accumulation_steps=2)
    seen, compute = [], run.compute_loss

    def spy(model, inputs, *arguments, **options):
        seen.append(torch.stack(pair_log_probs(model, inputs), 1).detach().double())
        return compute(model, inputs, *arguments, **options)

    run.compute_loss = spy
    run.train()
    logged = [logs for logs in run.state.log_history if "loss" in logs]
    assert [logs["step"] for logs in logged] == [2, 4] and len(seen) == 4 * 2
    for logs, part in zip(logged, (seen[:4], seen[4:]), strict=True):
        expected = figures(torch.cat(part))  # the loss too: steps of a whole batch (3 + 2 pairs) count alike
        assert {name: logs[name] for name in expected} == pytest.approx(expected, rel=1e-5)


def test_figures_of_held_out_pairs_count_each_once_and_do_not_mix_with_training(tmp_path):
    held_out, model = ragged_pairs(7, seed=9), make_model("llama")
    run = trainer(tmp_path, model, held_out, **STILL, max_steps=2, eval_strategy="steps", eval_steps=1)
    run.train()
    run.evaluate()
    trained, measured = (figures(pair_rewards(model, pairs, 0)) for pairs in (PAIRS, held_out))
    del trained["loss"]
    kinds = ["eval" if "eval_loss" in logs else "loss" if "loss" in logs else "end" for logs in run.state.log_history]
    assert kinds == ["eval", "loss", "eval", "end", "eval"]
    for kind, logs in zip(kinds, run.state.log_history, strict=True):
        if kind == "eval":
            assert {name: logs[f"eval_{name}"] for name in measured} == pytest.approx(measured, rel=1e-4)
        if kind == "loss":
            assert {name: logs[name] for name in trained} == pytest.approx(trained, rel=1e-4)
        else:
            assert not trained.keys() & logs.keys()


def test_compute_loss_can_return_the_rewards_and_a_beta_that_orders_nothing_is_refused(tmp_path):
    model, batch = make_model("llama"), PairCollator(0)(PAIRS)
    loss, rewards = trainer(tmp_path, model).compute_loss(model, batch, return_outputs=True)
    chosen, rejected = pair_log_probs(model, batch)
    torch.testing.assert_close(rewards, {"chosen": chosen, "rejected": rejected})
    torch.testing.assert_close(loss, arm_loss(chosen, rejected, 0.5))
    for beta in (0.0, math.nan):
        with pytest.raises(InvalidArgumentError, match="above 0"):
            ArmTrainer(model=model, args=TrainingArguments(str(tmp_path), report_to="none"), beta=beta)
