"""Models by path: loaded where they are whole and safe, and refused in one line that names the file and the cure."""

from __future__ import annotations

import json
import logging
import shutil
import warnings
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from families import make_model, plain_greedy, random_prompts, save_adapter, with_adapter
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from torch import nn

from genarm import (
    GenARMError,
    GuidedDecoder,
    InvalidArgumentError,
    LoadingError,
    UnsafeWeightsError,
    UnsupportedAdapterError,
    UnsupportedModelError,
    VocabularyMismatchError,
)
from genarm.models import files
from genarm.models.causal import CausalModel
from genarm.models.loading import load_tokenizer, resolve_device, resolve_dtype

PROMPTS = random_prompts([6, 11], seed=1)
CPU = torch.device("cpu")
WEIGHTS_FILE = "model.safetensors"


@pytest.fixture(scope="module")
def base() -> Any:
    return make_model("llama", seed=1)


@pytest.fixture(scope="module")
def saved(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A full reward model, for copies to be spoilt."""
    folder = tmp_path_factory.mktemp("full") / "model"
    make_model("llama", seed=2).save_pretrained(folder)
    return folder


@pytest.fixture
def folder(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "model"))


def assert_guides_as(decoder: GuidedDecoder, plain: list[Any]) -> None:
    out = decoder.generate(PROMPTS, temperature=0.0, max_new_tokens=8)
    for row, prompt in enumerate(PROMPTS):
        expected = plain_greedy(plain, [1.0] * len(plain), prompt, 8)
        assert out.tokens[row].tolist()[: len(expected)] == expected


def test_everything_by_path(base: Any, saved: Path, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path / "base")
    adapter = save_adapter(base, "llama", tmp_path / "adapter", seed=4)
    decoder = GuidedDecoder.from_pretrained(
        str(tmp_path / "base"), {"full": saved, "lora": adapter}, dtype="float32", device="cpu", max_batch_size=3,
        max_length=40,
    )  # fmt: skip
    assert (decoder.max_batch_size, decoder.max_length) == (3, 40)
    assert decoder.base_model.dtype == torch.float32
    assert not decoder.base_model.training
    assert decoder.tokenizer is None
    assert_guides_as(decoder, [base, make_model("llama", seed=2), with_adapter(base, adapter)])
    shared = [model.module is decoder.base_model for model in decoder.models]
    assert shared == [True, False, True], "an adapter goes on the base's own weights"


def test_a_loaded_base_with_rewards_by_path(base: Any, saved: Path) -> None:
    for rewards in ([saved], (str(saved),), {"reward_0": saved}, iter([saved])):
        decoder = GuidedDecoder(base, rewards)  # type: ignore[arg-type]
        assert decoder.reward_names == ("reward_0",)
    assert_guides_as(decoder, [base, make_model("llama", seed=2)])


@pytest.mark.parametrize(
    ("dtype", "expected"),
    [("auto", torch.float32), ("bfloat16", torch.bfloat16), ("bf16", torch.bfloat16), ("fp16", torch.float16),
     ("float32", torch.float32), (torch.bfloat16, torch.bfloat16)],
)  # fmt: skip
def test_the_dtype_is_what_was_asked_for(saved: Path, dtype: Any, expected: torch.dtype) -> None:
    decoder = GuidedDecoder.from_pretrained(saved, {"r": saved}, dtype=dtype, device="cpu")
    assert {parameter.dtype for model in decoder.models for parameter in model.module.parameters()} == {expected}
    assert resolve_dtype("auto", torch.device("cuda")) == torch.bfloat16


def test_a_reward_model_by_path_takes_the_dtype_of_a_loaded_base(base: Any, saved: Path) -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1).bfloat16(), [saved])
    assert decoder.models[1].module.dtype == torch.bfloat16


@pytest.mark.parametrize("dtype", ["int8", torch.int8, torch.float64, ["float32"], None, 32])
def test_an_unknown_dtype_is_refused(saved: Path, dtype: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="dtype is") as caught:
        GuidedDecoder.from_pretrained(saved, dtype=dtype)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("device", ["tpu", "mps", "meta", "", None, 1.5])
def test_an_unknown_device_is_refused(saved: Path, device: Any) -> None:
    with pytest.raises(InvalidArgumentError, match="device is") as caught:
        GuidedDecoder.from_pretrained(saved, device=device)
    assert "\n" not in str(caught.value)


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a CUDA device")
def test_a_device_that_is_not_there_is_refused(saved: Path) -> None:
    with pytest.raises(InvalidArgumentError, match="torch sees no CUDA device"):
        GuidedDecoder.from_pretrained(saved, device="cuda")
    assert resolve_device("auto") == CPU


def test_from_pretrained_takes_a_path(base: Any) -> None:
    with pytest.raises(InvalidArgumentError, match=r"use GuidedDecoder\(model\)"):
        GuidedDecoder.from_pretrained(base, device="cpu")


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / "config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def cut(folder: Path, size: int) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:size])


def pickle(folder: Path, name: str = "pytorch_model.bin") -> None:
    (folder / WEIGHTS_FILE).unlink()
    torch.save(make_model("llama", seed=2).state_dict(), folder / name)


def drop_weights(folder: Path) -> None:
    state = load_file(folder / WEIGHTS_FILE)
    save_file({key: value for key, value in state.items() if "layers.1" not in key}, folder / WEIGHTS_FILE,
              metadata={"format": "pt"})  # fmt: skip


def as_t5(folder: Path) -> None:
    shutil.rmtree(folder)
    t5().save_pretrained(folder)


def t5() -> Any:
    config = transformers.T5Config(vocab_size=97, d_model=16, d_kv=4, d_ff=16, num_layers=1, num_heads=2)
    return transformers.T5ForConditionalGeneration(config)


SPOILT: dict[str, tuple[Any, type[GenARMError], str]] = {
    "truncated in the header": (lambda f: cut(f, 500), LoadingError, "corrupt"),
    "truncated in the data": (lambda f: cut(f, 9000), LoadingError, "corrupt"),
    "empty": (lambda f: cut(f, 0), LoadingError, "corrupt"),
    "garbage": (lambda f: (f / WEIGHTS_FILE).write_bytes(b"garbage" * 99), LoadingError, "corrupt"),
    "pickled": (pickle, UnsafeWeightsError, "pickled weights can run code"),
    "pickled pt": (lambda f: pickle(f, "model.pt"), UnsafeWeightsError, "pickled weights can run code"),
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), LoadingError, "no file named model.safetensors"),
    "weights missing": (drop_weights, LoadingError, "9 weights are missing from its files (model.layers.1."),
    "a layer more": (lambda f: edit_config(f, num_hidden_layers=3), LoadingError, "9 weights are missing"),
    "another width": (lambda f: edit_config(f, hidden_size=64), LoadingError, "[97, 32], not [97, 64]"),
    "no config": (lambda f: (f / "config.json").unlink(), LoadingError, "model_type"),
    "broken config": (lambda f: (f / "config.json").write_text("{nope"), LoadingError, "not a valid JSON"),
    "config list": (lambda f: (f / "config.json").write_text("[1]"), LoadingError, "cannot be loaded"),
    "config type": (lambda f: edit_config(f, hidden_size="x"), LoadingError, "hidden_size"),
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


def test_loading_leaves_the_verbosity_of_transformers_alone(base: Any, saved: Path) -> None:
    transformers.utils.logging.set_verbosity(logging.INFO)
    try:
        GuidedDecoder(base, [saved])
        assert transformers.utils.logging.get_verbosity() == logging.INFO
    finally:
        transformers.utils.logging.set_verbosity_warning()


def test_weights_that_are_not_used_are_warned_of(base: Any, folder: Path) -> None:
    state = load_file(folder / WEIGHTS_FILE)
    save_file({**state, "score.weight": torch.zeros(1, 32)}, folder / WEIGHTS_FILE, metadata={"format": "pt"})
    with pytest.warns(UserWarning, match=r"1 weights in its files are not used \(score.weight"):
        GuidedDecoder(base, [folder])


@pytest.mark.parametrize("name", ["some-org/no-such-model", "not a name", "/no/such/folder", "./nor-here"])
def test_a_name_that_leads_nowhere_is_a_loading_error(base: Any, name: str) -> None:
    for load in (lambda: GuidedDecoder(base, [name]), lambda: GuidedDecoder.from_pretrained(name, device="cpu")):
        with pytest.raises(LoadingError, match="no such folder") as caught:
            load()
        assert name in str(caught.value)
        assert "\n" not in str(caught.value)


def test_a_tokenizer_that_cannot_be_read_is_none(folder: Path) -> None:
    assert load_tokenizer(folder) is None
    (folder / "tokenizer.json").write_text("{broken")
    assert load_tokenizer(folder) is None


# Which base an adapter goes on.


def adapter_of(base: Any, folder: Path, trained_on: str | None) -> Path:
    save_adapter(base, "llama", folder, seed=4)
    path = folder / "adapter_config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "base_model_name_or_path": trained_on}))
    return folder


def test_an_adapter_of_another_base_brings_that_base(base: Any, saved: Path, tmp_path: Path) -> None:
    other = make_model("llama", seed=2)
    adapter = adapter_of(other, tmp_path / "adapter", str(saved))
    decoder = GuidedDecoder(base, [adapter])
    assert decoder.models[1].module is not base
    assert_guides_as(decoder, [base, with_adapter(other, adapter)])


def test_an_adapter_of_the_base_itself_goes_on_it(base: Any, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path / "base")
    adapter = adapter_of(base, tmp_path / "adapter", str(tmp_path / "base"))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder = GuidedDecoder.from_pretrained(tmp_path / "base", [adapter], device="cpu")
    assert decoder.models[1].module is decoder.base_model
    assert_guides_as(decoder, [base, with_adapter(base, adapter)])


def test_an_adapter_named_after_another_base_is_warned_of(base: Any, tmp_path: Path) -> None:
    base.save_pretrained(tmp_path / "base")
    adapter = adapter_of(base, tmp_path / "adapter", "some-org/another-base")
    with pytest.warns(UserWarning, match="was trained on some-org/another-base, and is applied to"):
        GuidedDecoder.from_pretrained(tmp_path / "base", {"r": adapter}, device="cpu")


@pytest.mark.parametrize("trained_on", [None, "some-org/gone", "/gone"])
def test_an_adapter_that_does_not_fit_and_whose_base_is_gone_is_refused(
    base: Any, tmp_path: Path, trained_on: str | None
) -> None:
    adapter = adapter_of(make_model("llama", seed=1, hidden=64), tmp_path / "adapter", trained_on)
    with pytest.raises(UnsupportedAdapterError, match="another architecture") as caught:
        GuidedDecoder(base, [adapter])
    assert "\n" not in str(caught.value)


def test_an_adapter_whose_base_is_in_the_cache_brings_it(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wide = make_model("llama", seed=1, hidden=64)
    adapter = adapter_of(wide, tmp_path / "adapter", "some-org/wide")
    monkeypatch.setattr("genarm.models.loading.load_model", lambda name, source: wide)
    assert_guides_as(GuidedDecoder(base, [adapter]), [base, with_adapter(wide, adapter)])


def test_an_adapter_in_the_cache_is_found_by_its_hub_id(
    base: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    adapter = adapter_of(base, tmp_path / "adapter", None)
    monkeypatch.setattr("genarm.models.files.cached_file", lambda name, file, **_: str(adapter / file))
    assert_guides_as(GuidedDecoder(base, ["some-org/adapter"]), [base, with_adapter(base, adapter)])


def test_the_tokenizer_of_an_adapters_own_base_is_compared(base: Any, folder: Path, tmp_path: Path) -> None:
    adapter = adapter_of(make_model("llama", seed=2), tmp_path / "adapter", str(folder))
    words = [f"w{index}" for index in range(97)]
    word_level(words[::-1]).save_pretrained(str(folder))
    with pytest.raises(VocabularyMismatchError):
        GuidedDecoder(base, [adapter], tokenizer=word_level(words))
    word_level(words).save_pretrained(str(adapter))  # its own comes first
    GuidedDecoder(base, [adapter], tokenizer=word_level(words))


def word_level(words: list[str]) -> Any:
    vocabulary = {word: index for index, word in enumerate(words)}
    return transformers.PreTrainedTokenizerFast(tokenizer_object=Tokenizer(WordLevel(vocabulary, unk_token=words[0])))


def test_a_reward_model_on_another_device_is_refused(base: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    devices = {"base": CPU, "r": torch.device("cuda", 1)}
    monkeypatch.setattr(CausalModel, "device", property(lambda model: devices[model.name]))
    with pytest.raises(InvalidArgumentError, match="'r' is on cuda:1, the base on cpu") as caught:
        GuidedDecoder(base, {"r": make_model("llama", seed=2)})
    assert "\n" not in str(caught.value)


def test_the_hub_is_asked_only_where_it_answers(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def answers(offline: bool = False, resolves: bool = True, proxy: str | None = None) -> bool:
        monkeypatch.setattr(files.constants, "HF_HUB_OFFLINE", offline)
        for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy"):
            monkeypatch.delenv(name, raising=False)
        if proxy:
            monkeypatch.setenv("HTTPS_PROXY", proxy)

        def look_up(*_: Any) -> list[Any]:
            if resolves:
                return []
            raise OSError("no network")

        monkeypatch.setattr(files.socket, "getaddrinfo", look_up)
        files.hub_answers.cache_clear()
        try:
            return files.hub_answers()
        finally:
            files.hub_answers.cache_clear()

    assert answers()
    assert answers(resolves=False, proxy="http://proxy:1")
    assert not answers(resolves=False)
    assert not answers(offline=True)
    monkeypatch.setattr(files, "cached_file", lambda name, file, **_: str(tmp_path / file))
    assert files.model_source("some-org/model") == str(tmp_path)
    assert files.model_source(str(tmp_path)) == str(tmp_path)


# Modules that are not causal language models.


def tiny(name: str, config: str, **values: Any) -> Any:
    return getattr(transformers, name)(getattr(transformers, config)(vocab_size=97, **values))


BERT = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
NOT_CAUSAL: dict[str, tuple[Any, str]] = {
    "no weights": (nn.Identity, "not a transformers model|has no weights"),
    "a layer": (lambda: nn.Linear(3, 3), "not a transformers model"),
    "no head": (lambda: make_model("llama", seed=1).model, "no language-model head"),
    "classifier": (
        lambda: tiny("LlamaForSequenceClassification", "LlamaConfig", **BERT), "no language-model head"
    ),
    "masked": (lambda: tiny("BertForMaskedLM", "BertConfig", **BERT), "no language-model head"),
    "encoder-decoder": (t5, "encoder-decoder"),
    "recurrent": (
        lambda: tiny("MambaForCausalLM", "MambaConfig", hidden_size=16, num_hidden_layers=1, state_size=4),
        "recurrent state",
    ),
    "no cache": (
        lambda: tiny("OpenAIGPTLMHeadModel", "OpenAIGPTConfig", n_embd=16, n_layer=1, n_head=2), "no key-value cache"
    ),
}  # fmt: skip


@pytest.mark.parametrize(("make", "cause"), NOT_CAUSAL.values(), ids=NOT_CAUSAL.keys())
def test_a_module_that_is_no_causal_lm_is_refused(base: Any, make: Any, cause: str) -> None:
    for build in (lambda: GuidedDecoder(make()), lambda: GuidedDecoder(base, {"helpful": make()})):
        with pytest.raises(UnsupportedModelError, match=cause) as caught:
            build()
        assert "\n" not in str(caught.value)
    assert "helpful" in str(caught.value)


def test_a_home_folder_is_expanded_for_models_and_adapters_alike(
    base: Any, saved: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    base.save_pretrained(tmp_path / "base")
    save_adapter(base, "llama", tmp_path / "adapter", seed=3)
    decoder = GuidedDecoder.from_pretrained("~/base", {"full": "~/base", "lora": "~/adapter"}, device="cpu")
    assert decoder.reward_names == ("full", "lora")
