"""What LoRA a stream carries: its PEFT layers' active adapters with the scaling folded in, and the one on top."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, save_adapter
from fused_cases import build, untouched
from peft import LoraConfig, get_peft_model

from genarm.models.adapters import read_adapter
from genarm.models.causal import make_model as stream_model
from genarm.models.fused.streams import fingerprint, stream_layers

NAME = "model.layers.1.mlp.down_proj"


@pytest.fixture
def reward() -> Any:
    config = {"r": 4, "lora_alpha": 12, "target_modules": ["down_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(0)
    wrapped = get_peft_model(build("llama"), LoraConfig(**config, init_lora_weights=False))
    rank_stabilised = LoraConfig(**{**config, "r": 2}, use_rslora=True, init_lora_weights=False)
    wrapped.add_adapter("other", rank_stabilised)
    return wrapped.eval()


def test_a_and_scaled_b_by_the_layer_s_name(reward: Any) -> None:
    layers = stream_layers(stream_model("r", reward))
    assert layers is not None
    assert set(layers) == {"model.layers.0.mlp.down_proj", NAME}
    tuner = reward.get_base_model().get_submodule(NAME)
    down, up = layers[NAME]
    assert torch.equal(down, tuner.lora_A["default"].weight)
    torch.testing.assert_close(up, tuner.lora_B["default"].weight * 3.0)


def test_active_adapters_and_the_one_on_top_are_one_of_their_ranks_together(reward: Any, tmp_path: Path) -> None:
    reward.base_model.set_adapter(["default", "other"])
    top = read_adapter(save_adapter(build("llama"), "llama", tmp_path / "a", seed=4, r=5)).fit(reward.get_base_model())
    layers = stream_layers(stream_model("r", reward, top))
    assert layers is not None
    assert [len(layers[name][0]) for name in (NAME, "model.layers.1.mlp.up_proj")] == [4 + 2 + 5, 5]
    tuner = reward.get_base_model().get_submodule(NAME)
    down, up = layers[NAME]
    expected = sum(
        tuner.lora_B[name].weight @ tuner.lora_A[name].weight * scaling
        for name, scaling in {"default": 3.0, "other": 12 / math.sqrt(2)}.items()
    )
    torch.testing.assert_close(up @ down, expected + top.layers[NAME][1] @ top.layers[NAME][0])


def test_what_is_off_or_elsewhere_adds_nothing(reward: Any) -> None:
    inner = reward.get_base_model()
    assert stream_layers(stream_model("base", inner, without=reward)) == {}
    assert stream_layers(stream_model("plain", make_model("llama"))) == {}
    reward.base_model.disable_adapter_layers()
    assert stream_layers(stream_model("r", reward)) == {}


def test_merged_layers_cannot_be_told_as_a_and_b(reward: Any) -> None:
    reward.merge_adapter()
    assert stream_layers(stream_model("r", reward)) is None


def test_the_fingerprint_stays_as_long_as_nothing_changes(reward: Any) -> None:
    model = stream_model("r", reward)
    before = fingerprint(model)
    reward.train()
    reward.eval()
    untouched(reward)
    assert fingerprint(model) == before
    with torch.no_grad():
        reward.get_base_model().lm_head.weight.mul_(2.0)
    assert fingerprint(model) == before, "what is not LoRA is read in place"
    reward.set_adapter("other")
    after = fingerprint(model)
    assert after != before
    reward.get_base_model().get_submodule(NAME).set_scale("other", 2.0)
    assert fingerprint(model) != after
