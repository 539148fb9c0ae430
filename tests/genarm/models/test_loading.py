"""Models by path: loaded where they are whole and safe, and refused in one line that names the file and the cure."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
import transformers
from families import assert_streams_are, make_model, save_adapter, with_adapter
from safetensors.torch import load_file, save_file
from torch import nn

from genarm import (
    GenARMError,
    GuidedDecoder,
    InvalidArgumentError,
    LoadingError,
    UnsafeWeightsError,
    UnsupportedModelError,
)
from genarm.models.loading import load_tokenizer
from genarm.models.options import resolve_dtype

WEIGHTS_FILE = "model.safetensors"


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full reward model, for copies to be spoilt."""
    folder = tmp_path_factory.mktemp("full") / "model"
    make_model("llama", seed=2).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def test_everything_by_path(base: Any, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A home folder is expanded for models and adapters alike."""
    monkeypatch.setenv("HOME", str(tmp_path))
    base.save_pretrained(tmp_path / "base")
    adapter = save_adapter(base, "llama", tmp_path / "adapter", seed=4)
    rewards = {"full": saved, "lora": "~/adapter", "again": "~/base"}
    decoder = GuidedDecoder.from_pretrained("~/base", rewards, device="cpu", max_batch_size=3, max_length=40)
    assert (decoder.max_batch_size, decoder.max_length) == (3, 40)
    assert isinstance(decoder.base_model, transformers.LlamaForCausalLM)
    assert decoder.base_model.dtype == torch.float32
    assert not decoder.base_model.training
    assert decoder.tokenizer is None
    full = make_model("llama", seed=2)
    assert_streams_are(decoder, [base, full, with_adapter(base, adapter), base])
    with torch.no_grad():
        decoder.base_model.lm_head.weight.mul_(-1)
    changed = make_model("llama", seed=1)
    changed.lm_head.weight.data.mul_(-1)
    plain = [changed, full, with_adapter(changed, adapter), base]
    assert_streams_are(decoder, plain)  # an adapter goes on the base's own weights
    forms: list[Any] = [(str(saved),), {"reward_0": saved}, iter([saved])]
    for decoder in (GuidedDecoder(base, given) for given in forms):
        assert decoder.reward_names == ("reward_0",)
    assert_streams_are(decoder, [base, full])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("bf16", torch.bfloat16), ("fp16", torch.float16), (torch.bfloat16, torch.bfloat16)],
)
def test_the_dtype_is_what_was_asked_for(saved: Path, dtype: Any, expected: torch.dtype) -> None:
    base = GuidedDecoder.from_pretrained(saved, dtype=dtype, device="cpu").base_model
    assert {parameter.dtype for parameter in base.parameters()} == {expected}
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16


def test_a_reward_model_by_path_takes_the_dtype_of_a_loaded_base(saved: Path) -> None:
    """To the last bit what transformers makes of it in that dtype, which is not what it says in float32."""
    base, rewards = make_model("llama", seed=1).bfloat16(), {"path": saved, "whole": make_model("llama", seed=2)}
    loaded = transformers.AutoModelForCausalLM.from_pretrained(saved, dtype=torch.bfloat16)
    decoder = GuidedDecoder(base, {**rewards, "loaded": loaded})
    log_probs = decoder.generate([[5, 6, 7]], max_new_tokens=4, return_logprobs=True).model_logprobs
    assert log_probs is not None
    assert torch.equal(log_probs[..., 1], log_probs[..., 3]) and not torch.equal(log_probs[..., 1], log_probs[..., 2])


@pytest.mark.parametrize(
    ("argument", "values"),
    [("dtype", ["int8", torch.float64, ["float32"], None]), ("device", ["tpu", "mps", None])],
)
def test_an_unknown_dtype_or_device_is_refused(saved: Path, argument: str, values: list[Any]) -> None:
    for value in values:
        with pytest.raises(InvalidArgumentError, match=f"{argument} is") as caught:
            GuidedDecoder.from_pretrained(saved, **{argument: value})
        assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused_and_auto_takes_another(saved: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="torch sees no CUDA device"):
        GuidedDecoder.from_pretrained(saved, device="cuda")
    assert GuidedDecoder.from_pretrained(saved).device == torch.device("cpu")


def test_a_reward_model_on_another_device_is_refused(base: Any) -> None:
    class Elsewhere(transformers.LlamaForCausalLM):
        def parameters(self, recurse: bool = True) -> Any:
            return iter([SimpleNamespace(device=torch.device("cuda", 1), dtype=torch.float32)])

    with pytest.raises(InvalidArgumentError, match="'r' is on cuda:1, the base on cpu") as caught:
        GuidedDecoder(base, {"r": Elsewhere(base.config)})
    assert "\n" not in str(caught.value)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(folder: Path, size: int) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:size])


def pickle(folder: Path, name: str) -> None:
    (folder / WEIGHTS_FILE).unlink()
    torch.save(make_model("llama", seed=2).state_dict(), folder / name)


def edit_weights(folder: Path, change: Any) -> None:
    save_file(change(load_file(folder / WEIGHTS_FILE)), folder / WEIGHTS_FILE, metadata={"format": "pt"})


def drop_weights(folder: Path) -> None:
    edit_weights(folder, lambda state: {key: value for key, value in state.items() if "layers.1" not in key})


def as_t5(folder: Path) -> None:
    shutil.rmtree(folder)
    t5().save_pretrained(folder)


def t5() -> Any:
    config = transformers.T5Config(vocab_size=97, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5ForConditionalGeneration(config)


SPOILT: dict[str, tuple[Any, type[GenARMError], str]] = {
    "truncated in the data": (lambda f: cut(f, 9000), LoadingError, "corrupt"),
    "empty": (lambda f: cut(f, 0), LoadingError, "corrupt"),
    "pickled": (lambda f: pickle(f, "pytorch_model.bin"), UnsafeWeightsError, "pickled weights can run code"),
    "pickled pt": (lambda f: pickle(f, "model.pt"), UnsafeWeightsError, "pickled weights can run code"),
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), LoadingError, "no file named model.safetensors"),
    "weights missing": (drop_weights, LoadingError, "9 weights are missing from its files (model.layers.1."),
    "another width": (lambda f: edit_config(f, hidden_size=64), LoadingError, "[97, 32], not [97, 64]"),
    "no config": (lambda f: (f / "config.json").unlink(), LoadingError, "model_type"),
    "broken config": (lambda f: (f / "config.json").write_text("{nope"), LoadingError, "not a valid JSON"),
    "config list": (lambda f: (f / "config.json").write_text("[1]"), LoadingError, "cannot be loaded"),
    "config value": (lambda f: edit_config(f, num_attention_heads=0), LoadingError, "cannot be loaded"),
    "unknown architecture": (lambda f: edit_config(f, model_type="zzz"), LoadingError, "zzz"),
    "encoder-decoder": (as_t5, LoadingError, "T5Config"),
    "gone": (shutil.rmtree, LoadingError, "no such folder"),
}


@pytest.mark.parametrize(("spoil", "error", "cause"), SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_model_is_named_in_one_line(
    base: Any, folder: Path, spoil: Any, error: type[GenARMError], cause: str, capfd: pytest.CaptureFixture[str]
) -> None:
    spoil(folder)
    capfd.readouterr()
    for load in (
        lambda: GuidedDecoder(base, {"helpful": str(folder)}),
        lambda: GuidedDecoder.from_pretrained(folder, device="cpu"),
    ):
        with pytest.raises(error) as caught:
            load()
        text = str(caught.value)
        assert cause in text and str(folder) in text
        assert "\n" not in text
        assert len(text) < 600
    assert "LOAD REPORT" not in "".join(capfd.readouterr()), "one line, and no table"


def test_a_name_that_leads_nowhere_and_a_model_are_no_paths(base: Any) -> None:
    for name in ("some-org/no-such-model", "not a name", "/no/such/folder"):
        for load in (
            lambda name=name: GuidedDecoder(base, [name]),
            lambda name=name: GuidedDecoder.from_pretrained(name),
        ):
            with pytest.raises(LoadingError, match=f"{name}: no such folder") as caught:
                load()
            assert "\n" not in str(caught.value)
    with pytest.raises(InvalidArgumentError, match=r"use GuidedDecoder\(model\)"):
        GuidedDecoder.from_pretrained(base)


def test_weights_that_are_not_used_are_warned_of_by_us_alone(base: Any, folder: Path) -> None:
    """Transformers' own report is off meanwhile, and its verbosity as it was afterwards."""
    edit_weights(folder, lambda state: {**state, "score.weight": torch.zeros(1, 32)})
    transformers.utils.logging.set_verbosity(logging.INFO)
    try:
        with pytest.warns(UserWarning, match=r"1 weights in its files are not used \(score.weight"):
            GuidedDecoder(base, [folder])
        assert transformers.utils.logging.get_verbosity() == logging.INFO
    finally:
        transformers.utils.logging.set_verbosity_warning()


def test_a_tokenizer_that_cannot_be_read_is_none(folder: Path) -> None:
    assert load_tokenizer(folder) is None
    (folder / "tokenizer.json").write_text("{broken")
    assert load_tokenizer(folder) is None


@pytest.mark.parametrize("config", ["Qwen2Config", "Qwen3Config", "GPT2Config", "GemmaConfig"])
def test_an_empty_tokenizer_that_transformers_makes_up_is_none(config: str, tmp_path: Path) -> None:
    """Compared with the base's it would be another vocabulary, though the model may well have the base's."""
    getattr(transformers, config)().save_pretrained(tmp_path)
    assert len(transformers.AutoTokenizer.from_pretrained(tmp_path)) < 6
    assert load_tokenizer(tmp_path) is None


def tiny(name: str, config: str, **values: Any) -> Any:
    return getattr(transformers, name)(getattr(transformers, config)(vocab_size=97, **values))


BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
MAMBA = {"hidden_size": 16, "num_hidden_layers": 1, "state_size": 4}
NOT_CAUSAL: dict[str, tuple[Any, str]] = {
    "a layer": (lambda: nn.Linear(3, 3), "not a transformers model"),
    "classifier": (lambda: tiny("LlamaForSequenceClassification", "LlamaConfig", **BERT), "no language-model head"),
    "masked": (lambda: tiny("BertForMaskedLM", "BertConfig", **BERT), "no language-model head"),
    "encoder-decoder": (t5, "encoder-decoder"),
    "recurrent": (lambda: tiny("MambaForCausalLM", "MambaConfig", **MAMBA), "recurrent state"),
    "a cache of its own": (
        lambda: tiny("MiniMaxForCausalLM", "MiniMaxConfig", **BERT, num_local_experts=2),
        "keeps a cache of its own kind",
    ),
    "no cache": (
        lambda: tiny("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", n_embd=16, n_layer=1, n_head=2),
        "no key-value cache",
    ),
}


@pytest.mark.parametrize(("make", "cause"), NOT_CAUSAL.values(), ids=NOT_CAUSAL.keys())
def test_a_module_that_is_no_causal_lm_is_refused(base: Any, make: Any, cause: str) -> None:
    for build in (lambda: GuidedDecoder(make()), lambda: GuidedDecoder(base, {"helpful": make()})):
        with pytest.raises(UnsupportedModelError, match=cause) as caught:
            build()
        assert "\n" not in str(caught.value)
    assert "helpful" in str(caught.value)
