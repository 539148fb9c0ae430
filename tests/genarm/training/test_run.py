"""A run leaves weights that load again and score as it says; the same settings leave the same weights."""

import json
from dataclasses import replace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from training_cases import run_settings, write_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer

from genarm import GuidedDecoder
from genarm.errors import GenARMError, InvalidArgumentError, NumericalError
from genarm.models.loading import load_scorer
from genarm.models.options import Source
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import read_pairs
from genarm.preferences.scoring import pair_rewards, sequence_scores
from genarm.training.run import train
from genarm.training.settings import TrainingSettings

KINDS = ("arm", "trajectory-rm", "dpo")


def weights(folder):
    return load_file(next(folder.glob("*model.safetensors")))


def equal(first, second):
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


def reloaded(kind, rank, base, folder):
    """What a run left, loaded by those who know nothing of it."""
    source = Source(torch.float32, torch.device("cpu"))
    if kind == "trajectory-rm":
        if not rank:
            return load_scorer(folder, source)
        return PeftModel.from_pretrained(load_scorer(base, source, new_score=True), folder).eval()
    if not rank:
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), folder).eval()


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_orders_the_held_out_pairs_as_the_record_says(kind, rank, base, held_out, trained):
    folder, record = trained(kind=kind, rank=rank, eval_data=held_out, beta=0.5, max_steps=3, dropout=0.1)
    tokenizer, model = AutoTokenizer.from_pretrained(base), reloaded(kind, rank, base, folder)
    model.config.pad_token_id = tokenizer.pad_token_id
    pairs = encode_pairs(tokenizer, read_pairs(held_out)).pairs
    score = sequence_scores if kind == "trajectory-rm" else pair_rewards
    scores = score(model, pairs, tokenizer.pad_token_id)
    if kind == "dpo":
        scores -= pair_rewards(AutoModelForCausalLM.from_pretrained(base), pairs, tokenizer.pad_token_id)
    margins = (1.0 if kind == "trajectory-rm" else 0.5) * (scores[:, 0] - scores[:, 1])
    metrics, logged = record["metrics"], next(logs for logs in reversed(record["history"]) if "eval_loss" in logs)
    margin = logged["eval_rewards/margins" if kind == "dpo" else "eval_margin"]
    assert margins.abs().max() > 0.02  # of seven pairs in batches of four and three each counts once
    assert margin == pytest.approx(float(margins.mean()), rel=1e-3)
    assert metrics["eval_accuracy"] == pytest.approx(float((margins > 0).double().mean()))
    assert metrics["eval_loss"] == pytest.approx(float(-torch.nn.functional.logsigmoid(margins).mean()), rel=1e-3)


@pytest.mark.parametrize(("kind", "rank"), [("arm", 2), ("arm", 0), ("trajectory-rm", 2), ("dpo", 2)])
def test_a_seed_gives_the_same_weights_twice_and_another_seed_others(
    kind, rank, base, data, held_out, tmp_path, trained
):
    changes = {"kind": kind, "rank": rank, "eval_data": held_out, "beta": 0.5, "max_steps": 3, "dropout": 0.1}
    first, _ = trained(**changes)
    for name, seed in (("second", 0), ("third", 1)):
        train(run_settings(base, data, **changes, seed=seed), tmp_path / name)
    found, other = weights(first), weights(tmp_path / "third")
    assert equal(found, weights(tmp_path / "second"))
    assert not any(torch.equal(found[name], other[name]) for name in found)
    if rank:
        configs = [(folder / "adapter_config.json").read_bytes() for folder in (first, tmp_path / "second")]
        assert configs[0] == configs[1]


def test_the_folder_holds_weights_and_a_record_and_nothing_else(base, tmp_path, trained):
    (adapter, _), (whole, _) = trained(save_every=2), trained(rank=0)
    names = {file.name for file in whole.iterdir()}
    assert {file.name for file in adapter.iterdir()} == {
        "README.md",
        "adapter_config.json",
        "adapter_model.safetensors",
        "training.json",
    }
    assert names >= {"model.safetensors", "config.json", "tokenizer_config.json", "tokenizer.json", "training.json"}
    assert not [name for name in names if name.endswith((".bin", ".pt", ".pth", ".new"))]
    (tmp_path / "plain").write_text("")
    mode = (tmp_path / "plain").stat().st_mode
    assert {file.stat().st_mode for folder in (adapter, whole) for file in folder.iterdir()} == {mode}
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base
    assert config["target_modules"] == sorted(config["target_modules"])  # not as a set happens to be iterated
    model, tokenizer = AutoModelForCausalLM.from_pretrained(whole), AutoTokenizer.from_pretrained(whole)
    assert model.config.use_cache and model.dtype == torch.float32
    assert tokenizer("Tell me")["input_ids"] == AutoTokenizer.from_pretrained(base)("Tell me")["input_ids"]


@pytest.mark.parametrize("rank", [0, 2])
def test_the_decoder_takes_an_ar_rm_and_no_trajectory_rm(rank, base, held_out, trained):
    folder, _ = trained(rank=rank, learning_rate=5e-2)
    guided = GuidedDecoder.from_pretrained(base, {"joy": folder}, device="cpu")
    prompt = [AutoTokenizer.from_pretrained(base)("About 3, say:")["input_ids"]]
    options = {"temperature": 0.0, "max_new_tokens": 4, "return_logprobs": True}
    pushed, plain = (guided.generate(prompt, weights={"joy": weight}, **options) for weight in (3.0, 0.0))
    assert not torch.allclose(pushed.logprobs[0, 0], plain.logprobs[0, 0])
    assert (pushed.model_logprobs[0, 0, 0] - pushed.model_logprobs[0, 0, 1]).abs() > 1e-3
    judge = {"kind": "trajectory-rm", "rank": rank, "eval_data": held_out, "beta": 0.5, "max_steps": 3, "dropout": 0.1}
    with pytest.raises(GenARMError, match=r"a trajectory RM.*autoregressive reward model"):
        GuidedDecoder.from_pretrained(base, {"joy": trained(**judge)[0]}, device="cpu")


def test_bfloat16_and_checkpointed_gradients_train_too(trained):
    _, record = trained(max_steps=14, limit=16)
    for changes, near in (({"precision": "bf16"}, 0.1), ({"gradient_checkpointing": True}, 1e-3)):
        other = trained(max_steps=14, limit=16, **changes)[1]["metrics"]["train_loss"]
        assert other == pytest.approx(record["metrics"]["train_loss"], rel=near)
    history = [logs["loss"] for logs in record["history"] if "loss" in logs]
    assert sum(history[-5:]) < 0.7 * sum(history[:5])


@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 2}])
def test_a_batch_may_be_larger_than_the_data(changes, base, tmp_path):
    data = write_pairs(tmp_path / "few.jsonl", 3)
    settings = run_settings(base, data, batch_size=32, max_steps=None, epochs=2.0, **changes)
    metrics = train(settings, tmp_path / "out")["metrics"]
    assert metrics["steps"] == 2 and metrics["epochs"] == 2.0


def test_evaluations_are_as_often_as_asked_for(held_out, trained):
    _, record = trained(eval_data=held_out, eval_every=2, max_steps=5)
    assert [logs["step"] for logs in record["history"] if "eval_loss" in logs] == [2, 4, 5]


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"learning_rate": 1e30, "max_steps": 6, "log_every": 100}, r"the loss is .*start over with a lower learning"),
        # which the last step broke, after its loss was measured
        ({"learning_rate": 1e38, "weight_decay": 1e10, "max_steps": 1, "warmup": 0.0}, "is not finite at step 1"),
    ],
)
def test_figures_that_are_not_finite_end_the_run_and_leave_no_weights(changes, words, base, data, tmp_path):
    with pytest.raises(NumericalError, match=words):
        train(run_settings(base, data, **changes), tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))
    assert json.loads((tmp_path / "out" / "training.json").read_text())["state"] == "running"


def test_launches_that_cannot_train_are_refused(base, data, tmp_path, monkeypatch):
    for name in ("FSDP", "DEEPSPEED"):
        with monkeypatch.context() as patch, pytest.raises(InvalidArgumentError, match=f"set up for {name}"):
            patch.setenv(f"ACCELERATE_USE_{name}", "true")
            train(run_settings(base, data), tmp_path / "out")
    monkeypatch.setattr(TrainingSettings, "on_cuda", True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(InvalidArgumentError, match=r"4 GPUs are visible to one process.*accelerate launch -m genarm"):
        train(run_settings(base, data), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_the_launcher_s_precision_does_not_win_over_the_run_s(base, data, tmp_path, monkeypatch, trained):
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train(replace(run_settings(base, data), save_every=2), tmp_path / "launched")
    assert equal(weights(trained(save_every=2)[0]), weights(tmp_path / "launched"))
