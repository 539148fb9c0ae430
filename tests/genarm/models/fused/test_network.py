"""Every stream of the fused decoder is its model's own forward pass: families, adapters, prompts, chunks, dtypes."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, random_prompts, save_adapter, with_adapter
from fused_cases import (
    VARIETIES,
    assert_streams_are,
    build,
    kinds,
    plain_logits,
    stream_logits,
    untouched,
)
from peft import LoraConfig, get_peft_model
from torch import Tensor

from genarm import GuidedDecoder
from genarm.models.fused import network
from genarm_kernels.layer import linear, residual

pytestmark = [pytest.mark.filterwarnings("ignore::UserWarning:peft.*"), pytest.mark.usefixtures("cpu_path")]

ALL = [*LLAMA_LINEARS, "lm_head"]
RAGGED = [5, 13, 1, 20]


def peft_model(base: Any, adapters: dict[str, int], **settings: Any) -> Any:
    """PEFT adapters by name, each with its seed, put into ``base`` itself."""
    wrapped: Any = None
    for name, seed in adapters.items():
        torch.manual_seed(seed)
        options = {"r": 3 + seed, "lora_alpha": 7, "target_modules": LLAMA_LINEARS, "task_type": "CAUSAL_LM"}
        config = LoraConfig(**{**options, **settings})
        if wrapped is None:
            wrapped = get_peft_model(base, config, adapter_name=name)
        else:
            wrapped.add_adapter(name, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name:
                parameter.normal_(0, 0.2)
    return wrapped.eval()


@pytest.mark.parametrize("variety", VARIETIES)
def test_every_variety_with_two_adapters(variety: str, cpu_path: str, tmp_path: Path) -> None:
    """Prompts of their own for the second reward model; 20 steps. In C every second one, from each family."""
    if cpu_path == "native" and list(VARIETIES).index(variety) % 2:
        pytest.skip("by torch alone")
    base = build(variety)
    folders = [
        save_adapter(base, "llama", tmp_path / "a", seed=4, r=4, target_modules=ALL),
        save_adapter(base, "llama", tmp_path / "b", seed=5, r=20),
    ]
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    decoder = GuidedDecoder(base, folders)
    assert kinds(decoder) == ["fused"]
    prompts = random_prompts(RAGGED, seed=1)
    others = random_prompts([2, 30, 7, 5], seed=2)
    assert_streams_are(decoder, plain, [prompts, prompts, others], steps=20)


ADAPTERS: dict[str, dict[str, Any]] = {
    "another rank a module": {"rank_pattern": {"v_proj": 2, "layers.1.mlp.up_proj": 33}, "r": 5},
    "another alpha a module": {"alpha_pattern": {"q_proj": 32, "layers.1.mlp.up_proj": 1}},
    "rank-stabilised": {"use_rslora": True, "r": 6},
    "one of three fused": {"target_modules": ["k_proj"]},
    "the other half of two fused": {"target_modules": ["up_proj", "o_proj"]},
    "one layer": {"layers_to_transform": [1]},
    "the head": {"target_modules": ["lm_head"]},
    "everything": {"target_modules": ALL},
}


@pytest.mark.parametrize("settings", ADAPTERS.values(), ids=ADAPTERS.keys())
def test_adapters_of_every_kind_beside_a_plain_one(settings: dict[str, Any], tmp_path: Path) -> None:
    base = build("llama")
    one = save_adapter(base, "llama", tmp_path / "a", seed=4, **settings)
    other = save_adapter(base, "llama", tmp_path / "b", seed=5, r=2)
    plain = [untouched(base), with_adapter(base, one), with_adapter(base, other)]
    decoder = GuidedDecoder(base, [one, other])
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, plain)


@pytest.mark.parametrize("K", [0, 1, 3])
def test_any_number_of_reward_models(K: int, tmp_path: Path) -> None:
    base = build("qwen3")
    folders = [save_adapter(base, "llama", tmp_path / str(i), seed=4 + i, r=1 + 7 * i) for i in range(K)]
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    decoder = GuidedDecoder(base, folders)
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, plain)


def test_reward_models_on_weights_of_their_own(tmp_path: Path) -> None:
    """A backbone each: another family, and an adapter on another base."""
    base, tall, other = build("llama"), build("qwen2", num_hidden_layers=3), build("llama", seed=7)
    adapted = with_adapter(other, save_adapter(other, "llama", tmp_path / "a", seed=4))
    decoder = GuidedDecoder(base, [tall, adapted])
    assert kinds(decoder) == ["fused"] * 3
    assert_streams_are(decoder, [untouched(base), untouched(tall), untouched(adapted)])


def test_a_base_that_is_a_peft_model(tmp_path: Path) -> None:
    """The base with its adapter, the plain model inside it, and a path adapter on top of the base's."""
    plain = build("llama")
    folder = save_adapter(plain, "llama", tmp_path / "a", seed=4, target_modules=["q_proj", "down_proj"])
    base = peft_model(untouched(plain), {"default": 5})
    with_both = peft_model(untouched(plain), {"default": 5})
    with_both.load_adapter(str(folder), adapter_name="top")
    with_both.base_model.set_adapter(["default", "top"])
    reference = base.get_base_model()
    decoder = GuidedDecoder(base, {"inside": reference, "top": folder})
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, [untouched(base), plain, with_both])


def test_a_reward_model_that_is_a_peft_model_on_the_base_s_own_layers() -> None:
    base = build("llama")
    plain = untouched(base)
    reward = peft_model(base, {"default": 5})
    decoder = GuidedDecoder(base, [reward])
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, [plain, untouched(reward)])


def test_several_active_peft_adapters() -> None:
    base = build("llama")
    reward = peft_model(untouched(base), {"one": 1, "two": 5})
    reward.base_model.set_adapter(["one", "two"])
    decoder = GuidedDecoder(base, [reward])
    assert kinds(decoder) == ["fused", "fused"]
    assert_streams_are(decoder, [untouched(base), untouched(reward)])


def test_adapters_on_other_layers_at_other_ranks(tmp_path: Path) -> None:
    base = build("qwen2", num_hidden_layers=4)
    settings: list[dict[str, Any]] = [
        {"layers_to_transform": [1], "r": 17},
        {"layers_to_transform": [1, 2], "target_modules": ["k_proj", "up_proj", "down_proj"]},
    ]
    folders = [save_adapter(base, "llama", tmp_path / str(i), seed=i, **own) for i, own in enumerate(settings)]
    plain = [untouched(base), *(with_adapter(base, folder) for folder in folders)]
    decoder = GuidedDecoder(base, folders)
    assert kinds(decoder) == ["fused"]
    assert_streams_are(decoder, plain)


@pytest.mark.parametrize("variety", ["llama", "qwen3", "qwen2"])
def test_bfloat16_is_as_near_the_truth_as_transformers_own(variety: str, tmp_path: Path) -> None:
    """The root mean square error against float32 with the same rounded weights, over all logits."""
    base = build(variety, hidden_size=128, intermediate_size=256).to(torch.bfloat16)
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4)
    theirs = [untouched(base), with_adapter(base, folder)]
    exact = [untouched(model).float() for model in theirs]
    decoder = GuidedDecoder(base, [folder])
    assert kinds(decoder) == ["fused"]
    prompts = random_prompts(RAGGED, seed=1)
    found = stream_logits(decoder, [prompts] * 2, steps=10)
    for own, their, truth in zip(found, theirs, exact, strict=True):
        assert own.dtype == torch.bfloat16
        expected = plain_logits(truth, prompts, 10)

        def error(logits: Tensor, expected: Tensor = expected) -> float:
            return float((logits.float() - expected).square().mean().sqrt())

        assert error(own) <= error(plain_logits(their, prompts, 10)) * 1.15 + 1e-4


def test_layers_may_have_mlps_of_other_widths() -> None:
    base, narrow, wide = build("llama"), build("llama", intermediate_size=16), build("llama", intermediate_size=80)
    for other in (narrow, wide):
        base.model.layers[1].mlp = other.model.layers[1].mlp
        decoder = GuidedDecoder(base)
        assert kinds(decoder) == ["fused"]
        assert_streams_are(decoder, [untouched(base)], [random_prompts(RAGGED, seed=1)], steps=4)


def test_few_rows_of_one_dtype_take_the_narrow_way(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where kernels run. The residual has the embedding's dtype, so every layer has to have it too."""
    session = GuidedDecoder(build("llama")).engine.backbones[0].session(1, 4)
    tensors, own = session._tensors, session._network
    for module in (linear, residual):
        monkeypatch.setattr(module, "INTERPRETED", True)

    def is_narrow(rows: int = 16, **changes: Any) -> bool:
        fresh = network.Network(own._parts, own._caches, *own._angles)
        return fresh.is_narrow(replace(tensors, **changes), rows)

    assert not is_narrow(), "a CPU's torch has one way"
    monkeypatch.setattr(network, "on_host", lambda _: False)
    assert is_narrow() and not is_narrow(17)
    assert not is_narrow(embedding=tensors.embedding.bfloat16())
    first, last = tensors.layers
    for name in ("attention_norm", "mlp_norm"):
        assert not is_narrow(layers=[first, replace(last, **{name: getattr(last, name).bfloat16()})]), name
    for name in ("qkv", "out", "gate_up", "down"):
        columns = getattr(last, name)
        assert not is_narrow(layers=[first, replace(last, **{name: replace(columns, weight=columns.weight.double())})])
