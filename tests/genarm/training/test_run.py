"""A run leaves weights that load again and score as it says; the same settings leave the same weights."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from training_cases import run_settings, write_pairs
from transformers import AutoModelForCausalLM, AutoTokenizer

from genarm import GuidedDecoder
from genarm.errors import GenARMError, InvalidArgumentError, NumericalError
from genarm.models.loading import Source, load_scorer
from genarm.preferences.encoding import encode_pairs
from genarm.preferences.pairs import read_pairs
from genarm.preferences.scoring import pair_rewards, sequence_scores
from genarm.training.run import train
from genarm.training.settings import TrainingSettings

KINDS = ("arm", "trajectory-rm", "dpo")


@pytest.fixture
def data(tmp_path: Path) -> str:
    return write_pairs(tmp_path / "pairs.jsonl", 16)


def weights(folder: Path, whole: bool = False) -> dict[str, torch.Tensor]:
    return load_file(folder / ("model.safetensors" if whole else "adapter_model.safetensors"))


def equal(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize(("kind", "rank"), [*((kind, 2) for kind in KINDS), ("arm", 0)])
def test_a_seed_gives_the_same_weights_twice_and_another_seed_others(
    kind: Any, rank: int, base: str, data: str, tmp_path: Path
) -> None:
    settings = run_settings(base, data, kind=kind, rank=rank, dropout=0.1)
    for name, seed in (("first", 0), ("second", 0), ("third", 1)):
        train(replace(settings, seed=seed), tmp_path / name)
    first, second, third = (weights(tmp_path / name, not rank) for name in ("first", "second", "third"))
    assert equal(first, second)
    assert not any(torch.equal(first[name], third[name]) for name in first)
    if rank:
        configs = [(tmp_path / name / "adapter_config.json").read_bytes() for name in ("first", "second")]
        assert configs[0] == configs[1]


def reloaded(settings: TrainingSettings, folder: Path) -> Any:
    """What a run left, loaded by those who know nothing of it."""
    source = Source(torch.float32, torch.device("cpu"))
    if settings.kind == "trajectory-rm":
        if not settings.rank:
            return load_scorer(folder, source)
        return PeftModel.from_pretrained(load_scorer(settings.base, source, new_score=True), folder).eval()
    if not settings.rank:
        return AutoModelForCausalLM.from_pretrained(folder).eval()
    return PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(settings.base), folder).eval()


@pytest.mark.parametrize("rank", [0, 2])
@pytest.mark.parametrize("kind", KINDS)
def test_what_was_saved_orders_the_pairs_held_out_as_the_record_says(
    kind: Any, rank: int, base: str, data: str, tmp_path: Path
) -> None:
    held_out = write_pairs(tmp_path / "held_out.jsonl", 7, seed=5)
    settings = run_settings(base, data, kind=kind, rank=rank, eval_data=held_out, beta=0.5, max_steps=3)
    record = train(settings, tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(base)
    model = reloaded(settings, tmp_path / "out")
    model.config.pad_token_id = tokenizer.pad_token_id
    pairs = encode_pairs(tokenizer, read_pairs(held_out)).pairs
    score = sequence_scores if kind == "trajectory-rm" else pair_rewards
    scores = score(model, pairs, tokenizer.pad_token_id)
    if kind == "dpo":
        scores -= pair_rewards(AutoModelForCausalLM.from_pretrained(base), pairs, tokenizer.pad_token_id)
    margins = (1.0 if kind == "trajectory-rm" else 0.5) * (scores[:, 0] - scores[:, 1])
    metrics = record["metrics"]
    assert metrics["eval_accuracy"] == pytest.approx(float((margins > 0).double().mean()))
    assert metrics["eval_loss"] == pytest.approx(float(-torch.nn.functional.logsigmoid(margins).mean()), rel=1e-3)


def test_the_folder_holds_weights_and_a_record_and_nothing_else(base: str, data: str, tmp_path: Path) -> None:
    train(run_settings(base, data, save_every=2), tmp_path / "adapter")
    train(run_settings(base, data, rank=0), tmp_path / "whole")
    adapter, whole = ({file.name for file in (tmp_path / name).iterdir()} for name in ("adapter", "whole"))
    assert adapter == {"adapter_config.json", "adapter_model.safetensors", "training.json"}
    assert whole >= {"model.safetensors", "config.json", "tokenizer_config.json", "tokenizer.json", "training.json"}
    assert not [name for name in whole if name.endswith((".bin", ".pt", ".pth", ".md", ".new"))]
    (tmp_path / "plain").write_text("")
    mode = (tmp_path / "plain").stat().st_mode
    assert {file.stat().st_mode for name in ("adapter", "whole") for file in (tmp_path / name).iterdir()} == {mode}
    config = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == base
    assert config["target_modules"] == sorted(config["target_modules"])  # not as a set happens to be iterated


def test_a_whole_model_loads_with_its_tokenizer_and_caches_again(base: str, data: str, tmp_path: Path) -> None:
    train(run_settings(base, data, rank=0), tmp_path / "out")
    model = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "out")
    assert tokenizer("Tell me")["input_ids"] == AutoTokenizer.from_pretrained(base)("Tell me")["input_ids"]
    assert model.config.use_cache and model.dtype == torch.float32


@pytest.mark.parametrize("rank", [0, 2])
def test_the_decoder_takes_what_was_trained(rank: int, base: str, data: str, tmp_path: Path) -> None:
    train(run_settings(base, data, rank=rank, learning_rate=5e-2), tmp_path / "out")
    guided = GuidedDecoder.from_pretrained(base, {"joy": tmp_path / "out"}, device="cpu")
    prompt = [AutoTokenizer.from_pretrained(base)("About 3, say:")["input_ids"]]
    pushed, plain = (
        guided.generate(prompt, weights={"joy": weight}, temperature=0.0, max_new_tokens=4, return_logprobs=True)
        for weight in (3.0, 0.0)
    )
    assert pushed.model_logprobs is not None and plain.logprobs is not None and pushed.logprobs is not None
    assert not torch.allclose(pushed.logprobs[0, 0], plain.logprobs[0, 0])
    assert (pushed.model_logprobs[0, 0, 0] - pushed.model_logprobs[0, 0, 1]).abs() > 1e-3


def test_bfloat16_and_checkpointed_gradients_train_too(base: str, data: str, tmp_path: Path) -> None:
    record = train(run_settings(base, data, max_steps=14), tmp_path / "plain")
    for name, changes in {"bf16": {"precision": "bf16"}, "checkpointed": {"gradient_checkpointing": True}}.items():
        other = train(run_settings(base, data, max_steps=14, **changes), tmp_path / name)
        near = 0.1 if name == "bf16" else 1e-3
        assert other["metrics"]["train_loss"] == pytest.approx(record["metrics"]["train_loss"], rel=near)
    history = [logs["loss"] for logs in record["history"] if "loss" in logs]
    assert sum(history[-5:]) < 0.7 * sum(history[:5])


@pytest.mark.parametrize("changes", [{}, {"micro_batch_size": 2}])
def test_a_batch_may_be_larger_than_the_data(changes: Any, base: str, tmp_path: Path) -> None:
    data = write_pairs(tmp_path / "few.jsonl", 3)
    settings = run_settings(base, data, batch_size=32, max_steps=None, epochs=2.0, **changes)
    metrics = train(settings, tmp_path / "out")["metrics"]
    assert metrics["steps"] == 2 and metrics["epochs"] == 2.0


def test_evaluations_are_as_often_as_asked_for(base: str, data: str, tmp_path: Path) -> None:
    settings = run_settings(base, data, eval_data=data, eval_every=2, max_steps=5)
    history = train(settings, tmp_path / "out")["history"]
    assert [logs["step"] for logs in history if "eval_loss" in logs] == [2, 4, 5]


def test_a_loss_that_is_no_number_ends_the_run_and_leaves_no_weights(base: str, data: str, tmp_path: Path) -> None:
    settings = run_settings(base, data, learning_rate=1e30, max_steps=6, log_every=100)
    with pytest.raises(NumericalError, match=r"the loss is .* at step .*start over with a lower learning rate"):
        train(settings, tmp_path / "out")
    assert [file.name for file in (tmp_path / "out").glob("*.safetensors")] == []
    assert json.loads((tmp_path / "out" / "training.json").read_text())["state"] == "running"


@pytest.mark.parametrize("kind", KINDS)
def test_weights_that_the_last_step_broke_are_not_saved(kind: Any, base: str, data: str, tmp_path: Path) -> None:
    settings = run_settings(base, data, kind=kind, learning_rate=1e38, weight_decay=1e10, max_steps=1, warmup=0.0)
    with pytest.raises(NumericalError, match="no number at step 1"):
        train(settings, tmp_path / "out")
    assert not list((tmp_path / "out").glob("*.safetensors"))


@pytest.mark.parametrize("kind", KINDS)
def test_several_gpus_without_a_launcher_are_refused(
    kind: Any, base: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(TrainingSettings, "on_cuda", True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 4)
    with pytest.raises(InvalidArgumentError, match=r"4 GPUs are visible to one process.*accelerate launch -m genarm"):
        train(run_settings(base, data, kind=kind), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("rank", [0, 2])
def test_a_trajectory_rm_does_not_guide_and_the_error_says_what_it_is(
    rank: int, base: str, data: str, tmp_path: Path
) -> None:
    train(run_settings(base, data, kind="trajectory-rm", rank=rank), tmp_path / "out")
    with pytest.raises(GenARMError, match=r"a trajectory RM.*autoregressive reward model"):
        GuidedDecoder.from_pretrained(base, {"joy": tmp_path / "out"}, device="cpu")


@pytest.mark.parametrize("name", ["FSDP", "DEEPSPEED"])
def test_sharded_weights_are_refused(
    name: str, base: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(f"ACCELERATE_USE_{name}", "true")
    with pytest.raises(InvalidArgumentError, match=f"set up for {name}"):
        train(run_settings(base, data), tmp_path / "out")


def test_the_launcher_s_precision_does_not_win_over_the_run_s(
    base: str, data: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    train(run_settings(base, data), tmp_path / "plain")
    monkeypatch.setenv("ACCELERATE_MIXED_PRECISION", "bf16")
    train(run_settings(base, data), tmp_path / "launched")
    assert equal(weights(tmp_path / "plain"), weights(tmp_path / "launched"))
