"""What a user does to a model between two calls is noticed by the next, whatever it was."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from families import LLAMA_LINEARS, random_prompts, save_adapter
from fused_cases import LORA, assert_streams_are, build, kinds, peft_of, stream_logits, untouched
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn

from genarm import GuidedDecoder

pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:peft.*", "ignore::FutureWarning")


# What may happen to a reward model between two calls.
def hooked(reward: Any) -> None:
    reward.get_base_model().model.layers[0].mlp.register_forward_hook(lambda _module, _args, output: output * 1.5)


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
