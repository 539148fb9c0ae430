"""What a run starts from: a base with an adapter of its own, an adapter to go on with, 4 bits; and what cannot fit."""

import json
import warnings
from types import SimpleNamespace

import pytest
import torch
from peft import PeftModel
from safetensors.torch import load_file
from training_cases import run_settings
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config

from genarm import GuidedDecoder
from genarm.errors import GenARMError, InvalidArgumentError, LoadingError
from genarm.training import defaults, memory
from genarm.training.continuing import base_for, continued
from genarm.training.defaults import epochs_for, rate_for, share_held_out, width_of, with_rate
from genarm.training.memory import check_memory
from genarm.training.run import train

SAID = pytest.mark.filterwarnings("ignore:.*is an adapter. the model is:UserWarning")


def first_loss(record):
    return record["history"][0]["loss"]


@pytest.fixture(scope="module")
def tuned(base, trained, tmp_path_factory):
    """What a fine-tuning leaves: an adapter on the base, a tokenizer beside it."""
    folder, _ = trained(learning_rate=0.1)
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def merged(base, tuned, tmp_path_factory):
    """The same as a full model."""
    folder = tmp_path_factory.mktemp("merged")
    PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), tuned).merge_and_unload().save_pretrained(
        folder
    )
    AutoTokenizer.from_pretrained(base).save_pretrained(folder)
    return str(folder)


@SAID
@pytest.mark.parametrize("rank", [2, 0])
def test_a_lora_folder_as_the_base_is_the_base_with_its_adapter(rank, base, tuned, merged, data, tmp_path):
    records = {
        name: train(run_settings(str(place), data, rank=rank, max_steps=1), tmp_path / name)
        for name, place in (("tuned", tuned), ("merged", merged), ("plain", base))
    }
    losses = {name: first_loss(record) for name, record in records.items()}
    assert losses["tuned"] == pytest.approx(losses["merged"], rel=1e-4)
    assert abs(losses["tuned"] - losses["plain"]) > 0.05
    assert (records["tuned"]["base"], records["tuned"]["metrics"]["unchanged"]) == (str(tuned), False)
    if rank:
        config = json.loads((tmp_path / "tuned" / "adapter_config.json").read_text())
        assert config["base_model_name_or_path"] == str(tuned)
        with warnings.catch_warnings(record=True) as said:
            warnings.simplefilter("always")
            decoder = GuidedDecoder.from_pretrained(tuned, {"joy": tmp_path / "tuned"}, device="cpu")
        assert not [each for each in said if "was trained on" in str(each.message)]
        assert [backbone.streams for backbone in decoder.engine.backbones] == [(0, 1)]  # one set of weights


def test_training_goes_on_with_an_adapter(base, data, trained, tmp_path):
    first, _ = trained(max_steps=2, learning_rate=0.1)
    settings = run_settings(base, data, continue_from=str(first), max_steps=1)
    record = train(settings, tmp_path / "more")
    fresh = trained(max_steps=1)[1]
    assert abs(first_loss(record) - first_loss(fresh)) > 0.05
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), first)
    start, end = load_file(first / "adapter_model.safetensors"), load_file(tmp_path / "more/adapter_model.safetensors")
    assert start.keys() == end.keys() and all(0 < (end[key] - start[key]).abs().max() <= 0.011 for key in start)
    assert model.peft_config["default"].r == 2 and base_for(None, str(first)) == base
    for changes, words in (({"rank": 4}, "rank is 4, and the adapter to continue from has 2"), ({"alpha": 3}, "alpha")):
        with pytest.raises(InvalidArgumentError, match=words):
            continued(run_settings(base, data, continue_from=str(first), **changes))
    with pytest.raises(InvalidArgumentError, match="was trained as arm, and cannot go on as trajectory-rm"):
        continued(run_settings(base, data, kind="trajectory-rm", continue_from=str(first)))


@pytest.mark.parametrize("kind", ["arm", "trajectory-rm", "dpo"])
def test_a_base_in_4_bits_trains_an_adapter(base, data, tmp_path, kind):
    """In float32, which TRL's trainers would make bfloat16."""
    pytest.importorskip("bitsandbytes")
    record = train(run_settings(base, data, kind=kind, load_in_4bit=True, max_steps=2), tmp_path / "q")
    weights = load_file(tmp_path / "q" / "adapter_model.safetensors")
    assert {weight.dtype for weight in weights.values()} == {torch.float32}
    assert any(weight.any() for name, weight in weights.items() if "lora_B" in name)
    assert record["settings"]["load_in_4bit"] and not record["metrics"]["unchanged"]


def test_what_cannot_fit_is_refused_with_the_sum(base, monkeypatch):
    monkeypatch.setattr(memory, "parameters_of", lambda name: 7_000_000_000)
    monkeypatch.setattr(memory, "memory_there", lambda on_cuda: 80 << 30)
    for changes, words in (
        ({"rank": 0}, r"7.00 billion parameters.* 16 bytes .*104.3 GiB .* 80.0 GiB.*train an adapter \(--rank 8\)"),
        ({"rank": 0, "kind": "dpo"}, r"20 bytes .*DPO's reference 4.*130.4 GiB"),
    ):
        with pytest.raises(GenARMError, match=words):
            check_memory(run_settings(base, "data", **changes))
    for fits in ({}, {"load_in_4bit": True}):
        check_memory(run_settings(base, "data", **fits))
    monkeypatch.setattr(memory, "memory_there", lambda on_cuda: 24 << 30)
    with pytest.raises(GenARMError, match=r"frozen, in float32.*pass --load-in-4bit"):
        check_memory(run_settings(base, "data"))


def test_defaults_fit_the_base_and_the_pairs():
    automatic = run_settings("base", "data", learning_rate=None, epochs=None, eval_share=None, batch_size=32)
    rates = [(4096, 5e-4), (8192, 5e-4), (1024, 2e-3), (256, 8e-3), (16, 8e-3)]
    assert [rate_for(automatic, width) for width, _ in rates] == [rate for _, rate in rates]
    assert [epochs_for(automatic, pairs) for pairs in (10, 510, 1000, 1900, 100_000)] == [3, 3, 2, 1, 1]
    shares = [share_held_out(automatic, pairs) for pairs in (10, 600, 1000, 2000, 100_000)]
    assert shares == [0.15, 0.15, 0.1, 0.05, 0.05]


def test_the_width_is_read_whatever_a_configuration_calls_it(tmp_path, monkeypatch):
    settings = run_settings(tmp_path, "data", learning_rate=None, kind="arm")
    GPT2Config(n_embd=48).save_pretrained(tmp_path)
    assert width_of(settings) == 48
    for fields, width in (({"model_dim": 1280}, 1280), ({"hidden_size": None, "d_model": 64}, 64)):
        monkeypatch.setattr(defaults, "base_config", lambda _settings, fields=fields: SimpleNamespace(**fields))
        assert width_of(settings) == width
    monkeypatch.setattr(defaults, "base_config", lambda _settings: SimpleNamespace(layers=2))
    with pytest.raises(LoadingError, match=r"names no width .*pass --learning-rate"):
        with_rate(settings)
