"""Log-probabilities without logits: the same as with them for every kind of head, and the model is left as it was."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model
from peft import LoraConfig, get_peft_model
from torch import nn
from training_cases import plain_log_probs, ragged_pairs
from transformers import (
    CohereConfig,
    CohereForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
)

import genarm_kernels
from genarm.preferences.collate import PairCollator
from genarm.preferences.scoring import response_log_probs

BATCH = PairCollator(0)(ragged_pairs())
SHAPE = {
    "vocab_size": 97,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "pad_token_id": 0,
    "initializer_range": 0.3,
}


def with_bias() -> Any:
    model = make_model("llama")
    head = nn.Linear(32, 97)
    head.weight.data.copy_(model.lm_head.weight)
    model.lm_head = head
    return model


def with_lora(*targets: str, **options: Any) -> Any:
    torch.manual_seed(1)
    wrapped = get_peft_model(make_model("llama"), LoraConfig(r=2, target_modules=list(targets), **options))
    for name, weight in wrapped.named_parameters():
        if "lora_B" in name:
            weight.data.normal_(0, 0.2)
    return wrapped


def scaled(architecture: Any, config: Any) -> Any:
    torch.manual_seed(0)
    return architecture(config).eval()


PLAIN = {
    "llama": lambda: make_model("llama"),
    "tied": lambda: make_model("llama", tie=True),
    "gpt2": lambda: make_model("gpt2", tie=True),
    "bias": with_bias,
    "lora": lambda: with_lora("q_proj", "down_proj"),
}
CHANGED = {
    "softcap": lambda: scaled(Gemma2ForCausalLM, Gemma2Config(**SHAPE, final_logit_softcapping=2.0)),
    "cohere": lambda: scaled(CohereForCausalLM, CohereConfig(**SHAPE, logit_scale=0.25)),
    "granite": lambda: scaled(GraniteForCausalLM, GraniteConfig(**SHAPE, logits_scaling=4.0)),
    "lora on the head": lambda: with_lora("q_proj", "lm_head"),
    "head saved whole": lambda: with_lora("q_proj", modules_to_save=["lm_head"]),
}


@pytest.fixture
def fused(monkeypatch: pytest.MonkeyPatch) -> list[Any]:
    """One entry a call of token_logprobs."""
    calls: list[Any] = []
    kernel = genarm_kernels.token_logprobs

    def spy(*arguments: Any) -> Any:
        calls.append(arguments)
        return kernel(*arguments)

    monkeypatch.setattr(genarm_kernels, "token_logprobs", spy)
    return calls


def values_and_grads(model: Any, compute: Any) -> tuple[torch.Tensor, dict[str, torch.Tensor]]:
    model.zero_grad()
    values = compute(model)
    weights = torch.linspace(-1, 2, values.numel(), dtype=values.dtype).view_as(values)
    (values * weights).sum().backward()
    grads = {name: held.grad.clone() for name, held in model.named_parameters() if held.grad is not None}
    return values.detach(), grads


def by_logits(model: Any) -> torch.Tensor:
    output = model(input_ids=BATCH["input_ids"], attention_mask=BATCH["attention_mask"])
    return plain_log_probs(output.logits, BATCH["labels"])


@pytest.mark.parametrize("name", [*PLAIN, *CHANGED])
def test_values_and_gradients_are_those_of_the_logits_and_plain_heads_need_none(name: str, fused: list[Any]) -> None:
    model = {**PLAIN, **CHANGED}[name]().double()
    expected, expected_grads = values_and_grads(model, by_logits)
    assert expected.abs().max() > 1
    for _ in range(2):
        values, grads = values_and_grads(model, lambda one: response_log_probs(one, BATCH))
        assert values.dtype == torch.float64
        torch.testing.assert_close(values, expected, rtol=1e-10, atol=1e-12)
        assert grads.keys() == expected_grads.keys() and grads
        for key, grad in grads.items():
            torch.testing.assert_close(grad, expected_grads[key], rtol=1e-8, atol=1e-11)
    assert len(fused) == (2 if name in PLAIN else 0)


@pytest.mark.parametrize("name", ["llama", "softcap"])
def test_a_head_is_found_out_once(name: str, fused: list[Any]) -> None:
    model = {**PLAIN, **CHANGED}[name]()
    forwards: list[int] = []
    model.register_forward_hook(lambda *_: forwards.append(1))
    with torch.no_grad():
        response_log_probs(model, BATCH)
        assert len(forwards) == (1 if name in PLAIN else 2)
        response_log_probs(model, BATCH)
        assert len(forwards) == (2 if name in PLAIN else 3)


def test_a_head_that_others_have_replaced_is_left_alone(fused: list[Any]) -> None:
    model = make_model("llama")
    own = model.lm_head.forward
    model.lm_head.forward = lambda hidden: 2 * own(hidden)
    with torch.no_grad():
        torch.testing.assert_close(response_log_probs(model, BATCH), by_logits(model))
    assert not fused and "forward" in vars(model.lm_head)


@torch.no_grad()
def test_the_model_gives_logits_again_afterwards(fused: list[Any]) -> None:
    model = make_model("llama")
    before = by_logits(model)
    response_log_probs(model, BATCH)
    assert torch.equal(by_logits(model), before) and "forward" not in vars(model.lm_head)


def test_the_model_gives_logits_again_after_a_failure() -> None:
    model = make_model("llama")
    with pytest.raises(IndexError):
        response_log_probs(model, {**BATCH, "input_ids": BATCH["input_ids"] + 97})
    assert "forward" not in vars(model.lm_head)
    with torch.no_grad():
        torch.testing.assert_close(response_log_probs(model, BATCH), by_logits(model))


def test_gradient_checkpointing_changes_nothing(fused: list[Any]) -> None:
    model = make_model("llama").train()
    expected, expected_grads = values_and_grads(model, lambda one: response_log_probs(one, BATCH))
    model.gradient_checkpointing_enable()
    values, grads = values_and_grads(model, lambda one: response_log_probs(one, BATCH))
    torch.testing.assert_close(values, expected)
    for key, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[key])
    assert len(fused) == 2


@pytest.mark.parametrize("name", ["llama", "lora", "softcap"])
def test_autocast_multiplies_in_bfloat16_and_sums_in_float32(name: str, fused: list[Any]) -> None:
    model = {**PLAIN, **CHANGED}[name]()
    with torch.autocast("cpu", torch.bfloat16):
        expected, expected_grads = values_and_grads(model, by_logits)
        values, grads = values_and_grads(model, lambda one: response_log_probs(one, BATCH))
    assert values.dtype == torch.float32
    torch.testing.assert_close(values, expected, rtol=2e-2, atol=2e-2)
    assert grads.keys() == expected_grads.keys()
    largest = max(grad.abs().max() for grad in expected_grads.values())
    for key, grad in grads.items():
        torch.testing.assert_close(grad, expected_grads[key], rtol=0.05, atol=0.02 * float(largest))
    assert len(fused) == (name in PLAIN)


def test_a_wrapper_around_the_model_takes_part(fused: list[Any]) -> None:
    class Wrapper(nn.Module):
        """Passes no attributes on, as DistributedDataParallel does not."""

        def __init__(self, module: Any) -> None:
            super().__init__()
            self.module, self.calls = module, 0

        def forward(self, **inputs: Any) -> Any:
            self.calls += 1
            return self.module(**inputs)

    model = make_model("llama")
    wrapper = Wrapper(model)
    with torch.no_grad():
        torch.testing.assert_close(response_log_probs(wrapper, BATCH, model), by_logits(model))
    assert wrapper.calls == 1 and len(fused) == 1
