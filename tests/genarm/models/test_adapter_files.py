"""Adapter files of other days and makers: names of layers that changed, settings of a later PEFT, folders of a name."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from families import assert_streams_are, save_adapter, with_adapter
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig, LlavaForConditionalGeneration

from genarm import GuidedDecoder, LoadingError, UnsupportedAdapterError
from genarm.models.files import adapter_folder, is_adapter
from genarm.models.sources import fingerprint

WEIGHTS, CONFIG = "adapter_model.safetensors", "adapter_config.json"


@pytest.fixture
def adapter(base: Any, tmp_path: Path) -> Path:
    return save_adapter(base, "llama", tmp_path / "adapter", seed=4, target_modules=["q_proj", "up_proj", "lm_head"])


def rename(folder: Path, old: str, new: str) -> Path:
    """A copy whose file names layers otherwise."""
    copied = Path(shutil.copytree(folder, folder.with_name("renamed")))
    state = {key.replace(old, new): tensor for key, tensor in load_file(folder / WEIGHTS).items()}
    save_file(state, copied / WEIGHTS)
    return copied


@pytest.mark.parametrize("wrapper", ["_orig_mod.", "module.", "module._orig_mod."])
def test_a_wrapper_that_the_file_names_is_left_out(base: Any, adapter: Path, wrapper: str) -> None:
    wrapped = rename(adapter, "base_model.model.", f"base_model.model.{wrapper}")
    assert_streams_are(GuidedDecoder(base, [wrapped]), [base, with_adapter(base, adapter)])


def test_a_wrapper_inside_is_left_out(base: Any, adapter: Path) -> None:
    wrapped = rename(adapter, ".self_attn.", "._orig_mod.self_attn.")
    assert_streams_are(GuidedDecoder(base, [wrapped]), [base, with_adapter(base, adapter)])


def test_a_name_that_leads_nowhere_is_named(base: Any, adapter: Path) -> None:
    with pytest.raises(UnsupportedAdapterError, match=r"some for model\.blocks\.0\..*, which there is not"):
        GuidedDecoder(base, [rename(adapter, ".layers.", ".blocks.")])


def test_names_from_before_a_model_was_nested_otherwise(tmp_path: Path) -> None:
    """`language_model.model.` became `model.language_model.`: held against PEFT with the names of today."""
    torch.manual_seed(0)
    shape = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4}
    vision = {**shape, "hidden_size": 16, "num_hidden_layers": 1, "image_size": 8, "patch_size": 4}
    config = LlavaConfig(text_config=LlamaConfig(vocab_size=97, **shape), vision_config=CLIPVisionConfig(**vision))
    model: Any = LlavaForConditionalGeneration(config).eval()
    settings = {"target_modules": r".*language_model.*(q_proj|up_proj)"}
    today = save_adapter(model, "llama", tmp_path / "today", seed=4, **settings)
    old = rename(today, "model.language_model.", "language_model.model.")
    assert any("base_model.model.language_model.model.layers" in key for key in load_file(old / WEIGHTS))
    assert_streams_are(GuidedDecoder(model, [old]), [model, with_adapter(model, today)])


def test_a_setting_of_a_later_peft_is_warned_of(base: Any, adapter: Path) -> None:
    path = adapter / CONFIG
    settings = json.loads(path.read_text())
    path.write_text(json.dumps({**settings, "use_novelty": True, "novelty_rank": 4, "other_novelty": False}))
    with pytest.warns(UserWarning, match=r"does not know and that are not applied \(novelty_rank, use_novelty\)"):
        GuidedDecoder(base, [adapter])


def test_an_adapter_with_a_name_of_its_own_is_found_in_its_folder(base: Any, tmp_path: Path) -> None:
    place = tmp_path / "named"
    peft = get_peft_model(
        copy.deepcopy(base), LoraConfig(target_modules=["q_proj"], init_lora_weights=False), adapter_name="reward"
    )
    peft.save_pretrained(place)
    assert not (place / CONFIG).exists() and is_adapter(str(place)) and adapter_folder(str(place)) == place / "reward"
    before = fingerprint(str(place))
    assert_streams_are(GuidedDecoder(base, [place]), [base, peft.eval()])
    state = load_file(place / "reward" / WEIGHTS)
    save_file({key: tensor * 2 for key, tensor in state.items()}, place / "reward" / WEIGHTS)
    assert fingerprint(str(place)) != before, "a run is not resumed with another adapter"
    shutil.copytree(place / "reward", place / "second")
    with pytest.raises(LoadingError, match=r"several adapters: pass one of .*/named/reward, .*/named/second"):
        GuidedDecoder(base, [place])
