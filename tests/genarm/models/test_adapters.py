"""LoRA adapters applied in place are what PEFT makes of them; what is not plain LoRA is refused, saying why."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, LINEARS, assert_streams_are, make_model, save_adapter, with_adapter
from safetensors.torch import load_file, save_file
from torch import Tensor

from genarm import GenARMError, GuidedDecoder, LoadingError, UnsafeWeightsError, UnsupportedAdapterError
from genarm.models.adapters import read_adapter

WEIGHTS_FILE = "adapter_model.safetensors"
CONFIG_FILE = "adapter_config.json"


@pytest.fixture(scope="module")
def saved(base: Any, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A plain adapter, for copies to be spoilt."""
    return save_adapter(base, "llama", tmp_path_factory.mktemp("plain") / "adapter", seed=4)


@pytest.fixture
def adapter(saved: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(saved, tmp_path / "adapter"))


PATTERNS = {
    "alpha_pattern": {"q_proj": 32, "layers.1.mlp.up_proj": 1},
    "rank_pattern": {"v_proj": 2, "^model.layers.0.self_attn.k_proj": 8},
}
SETTINGS: dict[str, tuple[str, dict[str, Any]]] = {
    "plain but for training": ("auto", {"lora_dropout": 0.5, "init_lora_weights": "gaussian", "bias": "all"}),
    "patterns": ("auto", PATTERNS),
    "patterns with rslora": ("hf", {"use_rslora": True, "r": 6, **PATTERNS}),
    "bias of its own": ("auto", {"lora_bias": True}),
    "regex": ("hf", {"target_modules": r".*layers\.1.*(q|v)_proj"}),
    "all linear": ("auto", {"target_modules": "all-linear"}),
    "some layers": ("auto", {"layers_to_transform": [1], "exclude_modules": ["v_proj"]}),
    "head": ("hf", {"target_modules": ["q_proj", "lm_head"]}),
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize(("engine", "settings"), SETTINGS.values(), ids=SETTINGS.keys())
def test_an_adapter_is_what_peft_makes_of_it(base: Any, tmp_path: Path, engine: Any, settings: dict[str, Any]) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, **settings)
    peft = with_adapter(base, folder)
    decoder = GuidedDecoder(base, [str(folder), peft], engine=engine)
    assert_streams_are(decoder, [base, peft, peft])
    with pytest.raises(AssertionError):
        assert_streams_are(decoder, [base, base, peft])


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize(
    ("family", "tie", "engine"),
    [*((family, bool(index % 2), "auto") for index, family in enumerate(FAMILIES)), ("llama", True, "hf")],
)
def test_adapters_on_every_family_and_on_tied_heads(family: str, tie: bool, engine: Any, tmp_path: Path) -> None:
    base = make_model(family, seed=1, tie=tie)
    folder = save_adapter(base, family, tmp_path / "a", seed=4, target_modules=[*LINEARS[family], "lm_head"])
    assert_streams_are(GuidedDecoder(base, [folder], engine=engine), [base, with_adapter(base, folder)])


@pytest.mark.parametrize(("dtype", "engine"), [(torch.bfloat16, "hf"), (torch.float16, "auto")])
def test_an_adapter_takes_the_dtype_of_the_layers_it_goes_on(
    base: Any, dtype: torch.dtype, engine: Any, saved: Path
) -> None:
    own = make_model("llama", seed=1).to(dtype)
    assert {part.dtype for layer in read_adapter(saved).fit(own).layers.values() for part in layer[:2]} == {dtype}
    assert_streams_are(GuidedDecoder(own, [saved], engine=engine), [base, with_adapter(base, saved)], tolerance=0.1)


def test_an_adapter_may_be_read_once_and_given_as_it_is(base: Any, adapter: Path) -> None:
    """Pickled weights beside its own are not touched."""
    (adapter / "adapter_model.bin").write_bytes(b"not even a pickle")
    read = read_adapter(adapter)
    assert_streams_are(GuidedDecoder(base, {"a": read, "b": read}), [base] + [with_adapter(base, adapter)] * 2)


def test_a_head_that_was_trained_with_the_adapter_is_refused(base: Any, tmp_path: Path) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, target_modules=["q_proj", "lm_head"])
    state = load_file(folder / WEIGHTS_FILE)
    name = next(key for key in state if key.endswith("lm_head.base_layer.weight"))
    save_file({**state, name: state[name].bfloat16()}, folder / WEIGHTS_FILE)
    GuidedDecoder(base, [folder])  # the same in a coarser dtype
    save_file({**state, name: state[name] + 0.01}, folder / WEIGHTS_FILE)
    with pytest.raises(UnsupportedAdapterError, match=r"lm_head\.weight of its own"):
        GuidedDecoder(base, [folder])


UNSUPPORTED: dict[str, tuple[dict[str, Any], str]] = {
    "DoRA": ({"use_dora": True}, "DoRA"),
    "modules_to_save": ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
    "embedding": ({"target_modules": ["q_proj", "embed_tokens"]}, "LoRA on embeddings"),
    "PiSSA": ({"init_lora_weights": "pissa_niter_2"}, "pissa_niter_2 initialisation"),
    "token indices": ({"trainable_token_indices": [3, 4]}, "trainable_token_indices"),
    "replication": ({"layer_replication": [(0, 2), (1, 2)]}, "layer_replication"),
    "parameters": ({"target_parameters": ["mlp.gate_proj.weight"], "target_modules": []}, "bare parameters"),
}


@pytest.mark.filterwarnings("ignore::UserWarning:peft.*")
@pytest.mark.parametrize(("settings", "cause"), UNSUPPORTED.values(), ids=UNSUPPORTED.keys())
def test_what_is_not_plain_lora_is_refused(base: Any, tmp_path: Path, settings: dict[str, Any], cause: str) -> None:
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, **settings)
    with pytest.raises(UnsupportedAdapterError) as caught:
        GuidedDecoder(base, {"helpful": str(folder)})
    text = str(caught.value)
    assert cause in text and str(folder) in text and "merge" in text
    assert "\n" not in text


@pytest.mark.parametrize(
    ("family", "shape", "cause"),
    [
        ("gpt2", {}, "has no module"),
        ("llama", {"hidden": 64}, "64 -> 32 features, the model's 128 -> 64"),
        ("llama", {"layers": 4}, "14 modules it has no weights for (model.layers.2.self_attn.q_proj"),
    ],
)
def test_an_adapter_for_another_architecture_is_refused(
    family: str, shape: dict[str, int], cause: str, saved: Path
) -> None:
    with pytest.raises(UnsupportedAdapterError) as caught:
        GuidedDecoder(make_model(family, seed=1, **shape), [saved])
    assert cause in str(caught.value)
    assert "another architecture" in str(caught.value)
    assert "\n" not in str(caught.value)


def edit_config(folder: Path, **values: Any) -> None:
    path = folder / CONFIG_FILE
    path.write_text(json.dumps({**json.loads(path.read_text()), **values}))


def edit_weights(change: Any) -> Any:
    """``change``: the tensors, and the name of one lora_B among them -> tensors."""

    def edit(folder: Path) -> None:
        state = load_file(folder / WEIGHTS_FILE)
        save_file(change(state, next(key for key in state if "lora_B" in key)), folder / WEIGHTS_FILE)

    return edit


def one_edited(change: Any) -> Any:
    return edit_weights(lambda state, name: {**state, name: change(state[name])})


def without(found: Any) -> Any:
    return edit_weights(lambda state, name: {key: value for key, value in state.items() if not found(key, name)})


def with_lora_on(name: str) -> Any:
    halves = {"A": torch.zeros(2, 32), "B": torch.zeros(32, 2)}
    extra = {f"base_model.model.{name}.lora_{half}.weight": tensor for half, tensor in halves.items()}
    return edit_weights(lambda state, _: {**state, **extra})


def with_magnitudes(state: dict[str, Tensor], name: str) -> dict[str, Tensor]:
    return {**state, name.replace("lora_B.weight", "lora_magnitude_vector"): torch.ones(32)}


def cut_short(folder: Path) -> None:
    path = folder / WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:1000])


def pickle(folder: Path) -> None:
    (folder / WEIGHTS_FILE).unlink()
    torch.save({}, folder / "adapter_model.bin")


SPOILT: dict[str, tuple[Any, type[GenARMError], str]] = {
    "truncated": (cut_short, LoadingError, "corrupt"),
    "pickled": (pickle, UnsafeWeightsError, "pickled weights can run code"),
    "no weights": (lambda f: (f / WEIGHTS_FILE).unlink(), LoadingError, "no such file"),
    "no tensors": (lambda f: save_file({}, f / WEIGHTS_FILE), LoadingError, "holds no LoRA weights"),
    "missing half": (without(lambda key, name: key == name), LoadingError, "lacks a matching pair"),
    "ranks apart": (one_edited(lambda up: up[:, :2].clone()), LoadingError, "lacks a matching pair"),
    "NaN": (one_edited(lambda up: up * torch.nan), LoadingError, "NaN or infinite"),
    "a layer left out": (
        without(lambda key, _: "layers.0" in key), UnsupportedAdapterError, "7 modules it has no weights for (model.la",
    ),
    "magnitudes": (edit_weights(with_magnitudes), UnsupportedAdapterError, "more than plain LoRA"),
    "on a norm": (with_lora_on("model.norm"), UnsupportedAdapterError, "LlamaRMSNorm"),
    "on an embedding": (with_lora_on("model.embed_tokens"), UnsupportedAdapterError, "embedding"),
    "broken JSON": (lambda f: (f / CONFIG_FILE).write_text("{"), LoadingError, "cannot be read as JSON"),
    "JSON list": (lambda f: (f / CONFIG_FILE).write_text("[]"), LoadingError, "holds a list"),
    "alpha": (lambda f: edit_config(f, lora_alpha="x"), LoadingError, "damaged"),
    "targets": (lambda f: edit_config(f, target_modules="(q"), LoadingError, "damaged"),
    "another kind": (lambda f: edit_config(f, peft_type="IA3"), UnsupportedAdapterError, "a IA3 adapter"),
    "a scorer": (lambda f: edit_config(f, task_type="SEQ_CLS"), UnsupportedAdapterError, "SEQ_CLS (a trajectory RM"),
}  # fmt: skip


@pytest.mark.parametrize(("spoil", "error", "cause"), SPOILT.values(), ids=SPOILT.keys())
def test_a_spoilt_adapter_is_named_in_one_line(
    base: Any, adapter: Path, spoil: Any, error: type[GenARMError], cause: str
) -> None:
    spoil(adapter)
    with pytest.raises(error) as caught:
        GuidedDecoder(base, {"helpful": str(adapter)})
    text = str(caught.value)
    assert cause in text and str(adapter) in text
    assert "\n" not in text
