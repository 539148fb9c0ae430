"""What LoRA a stream carries: its PEFT layers' active adapters with the scaling folded in, and the one on top."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, save_adapter
from fused_cases import build
from peft import LoraConfig, get_peft_model

from genarm import GuidedDecoder
from genarm.models.adapters import read_adapter
from genarm.models.causal import make_model as stream_model
from genarm.models.fused import backbone, streams
from genarm.models.fused.linear import Pair
from genarm.models.fused.streams import StreamLora, stream_lora, tuner_layers

NAME = "model.layers.1.mlp.down_proj"


def product(pair: Pair) -> torch.Tensor:
    return pair.scale * pair.up @ pair.down


@pytest.fixture
def reward() -> Any:
    config = {"r": 4, "lora_alpha": 12, "target_modules": ["down_proj"], "task_type": "CAUSAL_LM"}
    torch.manual_seed(0)
    wrapped = get_peft_model(build("llama"), LoraConfig(**config, init_lora_weights=False))
    rank_stabilised = LoraConfig(**{**config, "r": 2}, use_rslora=True, init_lora_weights=False)
    wrapped.add_adapter("other", rank_stabilised)
    return wrapped.eval()


def test_a_and_scaled_b_by_the_layer_s_name(reward: Any) -> None:
    lora = stream_lora(stream_model("r", reward))
    assert lora is not None and lora.live
    assert set(lora.pairs) == {"model.layers.0.mlp.down_proj", NAME}
    tuner = reward.get_base_model().get_submodule(NAME)
    pair = lora.pairs[NAME]
    own = tuner.lora_A["default"].weight, tuner.lora_B["default"].weight
    assert [tensor.data_ptr() for tensor in pair[:2]] == [tensor.data_ptr() for tensor in own]
    torch.testing.assert_close(product(pair), 3.0 * own[1] @ own[0])


def test_active_adapters_and_the_one_on_top_are_one_of_their_ranks_together(reward: Any, tmp_path: Path) -> None:
    reward.base_model.set_adapter(["default", "other"])
    top = read_adapter(save_adapter(build("llama"), "llama", tmp_path / "a", seed=4, r=5)).fit(reward.get_base_model())
    lora = stream_lora(stream_model("r", reward, top))
    assert lora is not None and lora.live
    assert [len(lora.pairs[name].down) for name in (NAME, "model.layers.1.mlp.up_proj")] == [4 + 2 + 5, 5]
    tuner = reward.get_base_model().get_submodule(NAME)
    expected = sum(
        tuner.lora_B[name].weight @ tuner.lora_A[name].weight * scaling
        for name, scaling in {"default": 3.0, "other": 12 / math.sqrt(2)}.items()
    )
    torch.testing.assert_close(product(lora.pairs[NAME]), expected + top.layers[NAME][1] @ top.layers[NAME][0])


def test_what_is_off_or_elsewhere_adds_nothing(reward: Any) -> None:
    inner = reward.get_base_model()
    assert stream_lora(stream_model("base", inner, without=reward)) == StreamLora()
    assert stream_lora(stream_model("plain", make_model("llama"))) == StreamLora()
    reward.base_model.disable_adapter_layers()
    assert stream_lora(stream_model("r", reward)) == StreamLora()


def test_merged_layers_cannot_be_told_as_a_and_b(reward: Any) -> None:
    reward.merge_adapter()
    assert stream_lora(stream_model("r", reward)) is None


def test_a_call_walks_a_module_once_however_many_streams_are_on_it(
    reward: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    walks = []

    def counted(module: Any) -> Any:
        walks.append(module)
        return tuner_layers(module)

    decoder = GuidedDecoder(reward, {"a": reward, "b": reward, "c": reward})
    for place in (streams, backbone):
        monkeypatch.setattr(place, "tuner_layers", counted)
    decoder.generate([[5, 6]], max_new_tokens=2)
    assert len(walks) == 1 and [one.streams for one in decoder.engine.backbones] == [(0, 1, 2, 3)]
