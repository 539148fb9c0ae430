"""Which path runs a model: the fused decoder or transformers. It is chosen again after a change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, save_adapter, with_adapter
from fused_cases import LORA, assert_streams_are, build, kinds, peft_of, untouched
from peft import IA3Config, LoraConfig
from torch import Tensor, nn
from torch.nn.utils import parametrizations

from genarm import GuidedDecoder
from genarm.models.fused.families import why_not

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*", "ignore::FutureWarning")


class OwnLinear(nn.Linear):
    """As a quantised layer would be."""


class OwnTensor(Tensor):
    """As a quantised weight would be."""


def with_hook(model: Any) -> None:
    model.model.layers[0].mlp.register_forward_hook(lambda _module, _args, output: output * 1.5)


def with_pre_hook(model: Any) -> None:
    model.model.norm.register_forward_pre_hook(lambda _module, args: (args[0] * 1.5,))


def with_own_forward(model: Any) -> None:
    part = model.model.layers[1].self_attn.o_proj
    part.forward = lambda x: nn.functional.linear(x, part.weight) * 1.5


def with_own_linear(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    mlp.up_proj = OwnLinear(*mlp.up_proj.weight.shape[::-1], bias=False)


def with_own_weight(model: Any) -> None:
    mlp = model.model.layers[0].mlp
    mlp.up_proj.weight = nn.Parameter(mlp.up_proj.weight.data.as_subclass(OwnTensor))


def with_parametrisation(model: Any) -> None:
    parametrizations.weight_norm(model.model.layers[0].mlp.up_proj)


def with_own_norm(model: Any) -> None:
    model.model.layers[1].input_layernorm = nn.LayerNorm(32)


def with_own_mlp(model: Any) -> None:
    own = model.model.layers[1].mlp

    class Halved(type(own)):  # type: ignore[misc]
        def forward(self, x: Tensor) -> Tensor:
            output: Tensor = super().forward(x) / 2
            return output

    own.__class__ = Halved


def with_shared_layers(model: Any) -> None:
    model.model.layers[1].mlp = model.model.layers[0].mlp


def with_float64(model: Any) -> None:
    model.to(torch.float64)


ALTERATIONS: dict[str, tuple[Callable[[Any], None], str]] = {
    "a hook": (with_hook, "hooks or a forward of its own"),
    "a hook before": (with_pre_hook, "hooks or a forward of its own"),
    "a forward of its own": (with_own_forward, "hooks or a forward of its own"),
    "another linear layer": (with_own_linear, "up_proj of layer 0 is a OwnLinear"),
    "another kind of weight": (with_own_weight, "some of its weights are OwnTensor"),
    "a parametrised weight": (with_parametrisation, "up_proj of layer 0 is a ParametrizedLinear"),
    "another norm": (with_own_norm, "input_layernorm of layer 1 is a LayerNorm"),
    "another MLP": (with_own_mlp, "MLP of layer 1 is a Halved"),
    "a shared layer": (with_shared_layers, "some of its layers share their weights"),
    "float64": (with_float64, "its weights are torch.float64"),
}


@pytest.mark.parametrize(("alter", "reason"), ALTERATIONS.values(), ids=ALTERATIONS.keys())
def test_an_altered_model_runs_as_transformers_runs_it(alter: Callable[[Any], None], reason: str) -> None:
    base = build("llama")
    assert why_not(base) is None
    alter(base)
    found = why_not(base)
    assert found is not None
    assert reason in found
    decoder = GuidedDecoder(base)
    assert kinds(decoder) != ["fused"]
    assert_streams_are(decoder, [base])


SETTINGS: dict[str, tuple[dict[str, Any], str]] = {
    "frequencies that follow the text": (
        {"rope_parameters": {"rope_type": "dynamic", "factor": 2.0, "rope_theta": 1e4}},
        "its rotary scaling 'dynamic'",
    ),
    "another activation": ({"hidden_act": "gelu"}, "its activation is"),
    "very wide heads": ({"head_dim": 258}, "its heads have 258 columns"),
}


@pytest.mark.parametrize(("settings", "reason"), SETTINGS.values(), ids=SETTINGS.keys())
def test_a_configuration_that_is_not_fused(settings: dict[str, Any], reason: str) -> None:
    base = build("llama", **settings)
    found = why_not(base)
    assert found is not None
    assert reason in found
    decoder = GuidedDecoder(base)
    assert kinds(decoder) != ["fused"]
    assert_streams_are(decoder, [untouched(base)])


def test_a_partly_rotated_head_is_not_fused() -> None:
    base = build("llama")
    base.model.rotary_emb.inv_freq = base.model.rotary_emb.inv_freq[:2]
    assert why_not(base) == "it rotates only a part of each head"


@pytest.mark.parametrize("family", ["gpt2", "gemma3"])
def test_another_family_is_not_fused(family: str) -> None:
    assert "is not one of LlamaForCausalLM, Mistral" in str(why_not(make_model(family)))


TUNERS: dict[str, Any] = {
    "DoRA": LoraConfig(**LORA, use_dora=True),
    "LoRA with a bias": LoraConfig(**LORA, lora_bias=True),
    "a head trained along": LoraConfig(**LORA, modules_to_save=["lm_head"]),
    "norms trained along": LoraConfig(**LORA, modules_to_save=["input_layernorm"]),
    "LoRA on the embedding": LoraConfig(**{**LORA, "target_modules": ["embed_tokens", "q_proj"]}),
    "tokens trained along": LoraConfig(**LORA, trainable_token_indices=[3, 4]),
    "IA3": IA3Config(target_modules=["k_proj", "down_proj"], feedforward_modules=["down_proj"], task_type="CAUSAL_LM"),
}


@pytest.mark.parametrize("config", TUNERS.values(), ids=TUNERS.keys())
def test_a_reward_model_of_another_kind_runs_as_transformers_runs_it(config: Any) -> None:
    base = build("llama")
    reward = peft_of(untouched(base), copy.deepcopy(config))
    decoder = GuidedDecoder(base, [reward])
    assert kinds(decoder) == ["fused", "hf"]
    assert_streams_are(decoder, [untouched(base), untouched(reward)])


def test_a_merged_adapter_counts() -> None:
    base = build("llama")
    reward = peft_of(untouched(base), LoraConfig(**LORA))
    reward.merge_adapter()
    decoder = GuidedDecoder(base, [reward])
    assert kinds(decoder) == ["fused", "hf"]
    assert_streams_are(decoder, [untouched(base), untouched(reward)])
    reward.unmerge_adapter()
    assert kinds(decoder) == ["fused", "fused"]


def test_a_path_adapter_stays_fused_beside_a_stream_that_is_not(tmp_path: Path) -> None:
    """One backbone a path, the streams in the models' order."""
    base = build("llama")
    folders = [save_adapter(base, "llama", tmp_path / "a", seed=4), save_adapter(base, "llama", tmp_path / "b", seed=5)]
    plain = [untouched(base), with_adapter(base, folders[0]), make_model("gpt2"), with_adapter(base, folders[1])]
    decoder = GuidedDecoder(base, [folders[0], make_model("gpt2"), folders[1]])
    assert [(backbone.kind, backbone.streams) for backbone in decoder.engine.backbones] == [
        ("fused", (0, 1, 3)),
        ("hf", (2,)),
    ]
    assert_streams_are(decoder, plain)
