"""Which path runs a model: the fused decoder or transformers. It is chosen again after a change."""

from __future__ import annotations

import copy
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, make_model, random_prompts, save_adapter, with_adapter
from fused_cases import assert_streams_are, build, kinds, stream_logits, untouched
from peft import IA3Config, LoraConfig, PeftModel, get_peft_model
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


def peft_of(base: Any, config: Any) -> Any:
    torch.manual_seed(5)
    wrapped = get_peft_model(base, config)
    with torch.no_grad():
        for name, parameter in wrapped.named_parameters():
            if "lora_B" in name or "ia3" in name or "magnitude" in name:
                parameter.add_(torch.randn_like(parameter), alpha=0.2)
    return wrapped.eval()


LORA: dict[str, Any] = {"r": 4, "lora_alpha": 8, "target_modules": LLAMA_LINEARS, "task_type": "CAUSAL_LM"}
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


# What may happen to a reward model between two calls.
def hooked(reward: Any) -> None:
    with_hook(reward.get_base_model())


def hooked_everywhere(reward: Any) -> None:
    del reward
    handle = nn.modules.module.register_module_forward_hook(
        lambda module, _args, output: output * 1.5 if "SiLU" in type(module).__name__ else None
    )
    EVERYWHERE.append(handle)


def switched(reward: Any) -> None:
    reward.set_adapter("other")


def switched_off(reward: Any) -> None:
    reward.base_model.disable_adapter_layers()


def merged(reward: Any) -> None:
    reward.merge_adapter()


def trained(reward: Any) -> None:
    """A step of the adapter alone."""
    reward.train()
    optimizer = torch.optim.SGD([p for p in reward.parameters() if p.requires_grad], lr=5.0)
    ids = random_prompts([12], seed=8)[0][None]
    reward(input_ids=ids, labels=ids).loss.backward()
    optimizer.step()
    reward.eval()


def trained_in_a_alone(reward: Any) -> None:
    with torch.no_grad():
        for name, parameter in reward.named_parameters():
            if "lora_A.default" in name:
                parameter.mul_(1.7)


def scaled(reward: Any) -> None:
    for module in reward.modules():
        if hasattr(module, "set_scale"):
            module.set_scale("default", 3.0)


def replaced(reward: Any) -> None:
    """A layer of the base inside, by another."""
    inner = reward.get_base_model()
    inner.model.layers[0] = build("llama", seed=9).model.layers[0]


def shortened(reward: Any) -> None:
    inner = reward.get_base_model()
    inner.model.layers = inner.model.layers[:1]
    inner.config.num_hidden_layers = 1


def cast(reward: Any) -> None:
    """To bfloat16 and back: every tensor is another one, with other values."""
    reward.to(torch.bfloat16)
    reward.to(torch.float32)


def base_trained(reward: Any) -> None:
    with torch.no_grad():
        for parameter in reward.get_base_model().parameters():
            parameter.mul_(1.1)


def base_loaded(reward: Any) -> None:
    inner = reward.get_base_model()
    other = get_peft_model(build("llama", seed=9), LoraConfig(**LORA)).get_base_model().state_dict()
    inner.load_state_dict({name: value for name, value in other.items() if "lora" not in name}, strict=False)


def base_assigned(reward: Any) -> None:
    inner = reward.get_base_model()
    state = {name: value * 1.1 for name, value in inner.state_dict().items()}
    inner.load_state_dict(state, assign=True)


EVERYWHERE: list[Any] = []
CHANGES = [hooked, hooked_everywhere, switched, switched_off, merged, trained, trained_in_a_alone, scaled, replaced]
CHANGES += [shortened, cast, base_trained, base_loaded, base_assigned]


@pytest.mark.parametrize("change", CHANGES)
def test_a_change_between_two_calls_is_noticed(change: Callable[[Any], None]) -> None:
    base = build("llama")
    reward: PeftModel = peft_of(untouched(base), LoraConfig(**LORA))
    reward.add_adapter("other", LoraConfig(**{**LORA, "r": 6, "target_modules": ["v_proj"]}))
    decoder = GuidedDecoder(base, [reward])
    assert kinds(decoder) == ["fused", "fused"]
    assert_streams_are(decoder, [untouched(base), untouched(reward)])
    prompts = [random_prompts([4, 7], seed=1)] * 2
    before = stream_logits(decoder, prompts, steps=1)[1]
    try:
        change(reward)
        assert_streams_are(decoder, [untouched(base), untouched(reward)])
        after = stream_logits(decoder, prompts, steps=1)[1]
    finally:
        for handle in EVERYWHERE:
            handle.remove()
        EVERYWHERE.clear()
    assert torch.allclose(before, after, atol=1e-3) is (change is merged), "what this test changes shows"


def plain_replaced(base: Any) -> None:
    base.model.layers[0] = build("llama", seed=9).model.layers[0]


def plain_linear_replaced(base: Any) -> None:
    base.model.layers[1].mlp.up_proj = build("llama", seed=9).model.layers[1].mlp.up_proj


def plain_norm_replaced(base: Any) -> None:
    base.model.norm = build("llama", seed=9).model.norm


def plain_head_replaced(base: Any) -> None:
    base.lm_head = build("llama", seed=9).lm_head


def plain_widened(base: Any) -> None:
    base.to(torch.float64)


@pytest.mark.parametrize(
    "change", [plain_replaced, plain_linear_replaced, plain_norm_replaced, plain_head_replaced, plain_widened]
)
def test_a_change_of_a_model_without_adapters_is_noticed(change: Callable[[Any], None]) -> None:
    base = build("llama")
    decoder = GuidedDecoder(base)
    assert_streams_are(decoder, [untouched(base)])
    change(base)
    assert kinds(decoder) == (["hf"] if change is plain_widened else ["fused"])
    assert_streams_are(decoder, [untouched(base)])


def test_training_is_noticed_by_every_decoder_on_the_module() -> None:
    """An adapter's A is read in place by its module, but stands among the rows as it was."""
    base = build("llama")
    plain = untouched(base)
    reward = peft_of(base, LoraConfig(**LORA))
    decoders = [GuidedDecoder(base, [reward]) for _ in range(2)]
    for _ in range(2):
        for decoder in decoders:
            assert kinds(decoder) == ["fused"]
            assert_streams_are(decoder, [plain, untouched(reward)])
        trained_in_a_alone(reward)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_a_base_that_was_cast_takes_its_adapters_along(dtype: torch.dtype, tmp_path: Path) -> None:
    base = build("llama")
    folder = save_adapter(base, "llama", tmp_path / "a", seed=4, target_modules=[*LLAMA_LINEARS, "lm_head"])
    decoder = GuidedDecoder(base, [folder])
    prompts = random_prompts([5, 9], seed=1)
    exact = decoder.generate(prompts, temperature=0.0, max_new_tokens=4, return_logprobs=True)
    base.to(dtype)
    assert kinds(decoder) == ["fused"]
    cast = decoder.generate(prompts, temperature=0.0, max_new_tokens=4, return_logprobs=True)
    assert exact.model_logprobs is not None
    assert cast.model_logprobs is not None
    torch.testing.assert_close(cast.model_logprobs[:, 0], exact.model_logprobs[:, 0], atol=0.1, rtol=0)
    base.to(torch.float32)
    assert kinds(decoder) == ["fused"]
