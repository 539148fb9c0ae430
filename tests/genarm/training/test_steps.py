"""A step of any trainer weighs its pairs alike, however they are spread over micro batches; and it has a rate."""

import json

import pytest
import torch
from training_cases import run_settings, write_pairs

from genarm.preferences.chat import pair_tokenizer
from genarm.training.dataset import load_pairs
from genarm.training.models import trained_model
from genarm.training.run import train
from genarm.training.trainers import TRAINERS


@pytest.mark.parametrize("kind", ["arm", "trajectory-rm", "dpo"])
def test_an_incomplete_micro_batch_weighs_as_much_as_its_pairs(kind, base, tmp_path):
    """Five pairs in one pass, or in passes of three and two, make one loss and one gradient."""
    data, found = write_pairs(tmp_path / "pairs.jsonl", 5), []
    for micro in (6, 3):
        settings = run_settings(base, data, kind=kind, batch_size=6, micro_batch_size=micro, max_steps=1, log_every=1)
        tokenizer = pair_tokenizer(base)
        pairs = load_pairs(settings, tokenizer)
        model = trained_model(settings, tokenizer, pairs.longest)
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(weight, std=0.2, generator=torch.Generator().manual_seed(len(name)))
        trainer = TRAINERS[kind](settings, model, tokenizer, pairs, tmp_path / "work")
        trainer.train()
        logs = trainer.state.log_history[0]
        found.append([logs["loss"], logs["grad_norm"], logs.get("accuracy", logs.get("rewards/accuracies"))])
    assert found[1] == pytest.approx(found[0], rel=1e-4)
    assert abs(found[0][0] - 0.6931) > 1e-3


def test_a_run_of_one_step_is_at_the_peak_rate(base, data, tmp_path):
    record = train(run_settings(base, data, max_steps=1, learning_rate=3e-3, warmup=0.1), tmp_path / "out")
    assert record["history"][0]["learning_rate"] == 3e-3 and not record["metrics"]["unchanged"]


def test_weights_that_training_left_alone_are_said(base, data, tmp_path):
    record = train(run_settings(base, data, max_steps=1, learning_rate=1e-30, warmup=0.0), tmp_path / "out")
    assert record["metrics"]["unchanged"]


def test_early_stopping_keeps_the_best_weights_and_measures_them(base, data, held_out, tmp_path):
    """A rate that ruins what the first steps learned."""
    changes = {"eval_data": held_out, "eval_every": 1, "early_stopping": 2, "max_steps": 12, "schedule": "constant"}
    record = train(run_settings(base, data, learning_rate=0.3, warmup=0, **changes), tmp_path / "out")
    losses = {logs["step"]: logs["eval_loss"] for logs in record["history"][:-2] if "eval_loss" in logs}
    metrics = record["metrics"]
    assert metrics["steps"] < 12 and metrics["best_step"] == min(losses, key=losses.get) == metrics["steps"] - 2
    assert metrics["eval_loss"] == pytest.approx(losses[metrics["best_step"]], rel=1e-4)
    assert not (tmp_path / "out" / "checkpoints").exists()


def test_the_folder_says_what_it_is(trained, held_out):
    folder, record = trained(eval_data=held_out, report_to=("tensorboard",), max_steps=2)
    card = (folder / "README.md").read_text()
    assert card.startswith("---\n") and "base_model:" in card and "library_name: peft" in card
    assert "held-out pairs ordered right (95% interval" in card and "More Information Needed" not in card
    assert list((folder / "logs").rglob("events.out.tfevents*"))
    assert record["metrics"]["grad_norm"] > 0
    assert json.loads((folder / "training.json").read_text())["metrics"]["eval_accuracy_interval"]
