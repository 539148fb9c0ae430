"""Decoding leaves the caller's modules as they were: flags, hooks, gradients, weights; whatever state they are in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import make_model, plain_greedy, random_prompts, save_adapter
from torch import nn

from genarm import GuidedDecoder

PROMPTS = random_prompts([6, 11, 3], seed=1)


def snapshot(module: nn.Module) -> dict[str, Any]:
    return {
        "hooks": [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()],
        "training": [part.training for part in module.modules()],
        "trainable": [parameter.requires_grad for parameter in module.parameters()],
        "grads": [parameter.grad for parameter in module.parameters()],
        "pointers": [tensor.data_ptr() for tensor in module.state_dict().values()],
        "values": [tensor.clone() for tensor in module.state_dict().values()],
        "attributes": [sorted(vars(part)) for part in module.modules()],
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    assert all(torch.equal(one, other) for one, other in zip(before["values"], after["values"], strict=True))
    assert {**before, "values": 0} == {**after, "values": 0}


@pytest.mark.parametrize(("family", "engine"), [("llama", "auto"), ("llama", "hf"), ("gpt2", "auto"), ("gemma2", "hf")])
def test_the_modules_are_left_as_they_were(family: str, engine: Any) -> None:
    base, reward = make_model(family, seed=1), make_model(family, seed=2)
    base.train()
    base.get_input_embeddings().eval()
    for model in (base, reward):
        for parameter in list(model.parameters())[::2]:
            parameter.requires_grad_(False)
    before = snapshot(base), snapshot(reward)
    config = base.generation_config.to_dict()
    decoder = GuidedDecoder(base, [reward], engine=engine)
    for model, taken in zip((base, reward), before, strict=True):
        # Parameters of layers that were fused are views of the fused storage from here on.
        taken["pointers"] = snapshot(model)["pointers"]
    out = decoder.generate(PROMPTS, max_new_tokens=3, return_logprobs=True)
    assert out.logprobs is not None and not out.logprobs.requires_grad
    assert out.model_logprobs is not None and not out.model_logprobs.requires_grad
    steps = decoder.stream(PROMPTS, max_new_tokens=5)
    next(steps)
    steps.close()  # abandoned half way
    assert_same(before[0], snapshot(base))
    assert_same(before[1], snapshot(reward))
    assert base.generation_config.to_dict() == config


def test_between_the_steps_of_a_stream_the_modules_are_as_they_were() -> None:
    """So that two streams of one model, read in turn, do not switch each other's dropout on."""
    base = make_model("gpt2", seed=1).train()
    before = snapshot(base)
    decoder = GuidedDecoder(base)
    options: dict[str, Any] = {"temperature": 0.0, "eos_token_id": []}
    expected = decoder.generate(PROMPTS, max_new_tokens=6, **options)
    short, long = (decoder.stream(PROMPTS, max_new_tokens=count, **options) for count in (2, 6))
    steps = []
    for index in range(6):
        if index < 3:
            next(short, None)
        steps.append(next(long))
        assert_same(before, snapshot(base))
    for row, tokens in enumerate(expected.tokens):
        assert torch.equal(torch.cat([step.tokens[row] for step in steps]), tokens)


def test_a_forward_pass_that_fails_leaves_the_modules_as_they_were(tmp_path: Path) -> None:
    base = make_model("llama", seed=1).train()
    decoder = GuidedDecoder(base, [save_adapter(base, "llama", tmp_path, seed=2)])

    def fail(*_: Any) -> None:
        raise MemoryError

    base.lm_head.register_forward_pre_hook(fail)
    before = snapshot(base)
    with pytest.raises(MemoryError):
        decoder.generate(PROMPTS, max_new_tokens=2)
    assert_same(before, snapshot(base))


def test_dropout_is_off_in_a_module_in_training_mode() -> None:
    base, reward = make_model("gpt2", seed=1).train(), make_model("gpt2", seed=2).train()
    assert base.transformer.drop.p > 0
    out = GuidedDecoder(base, [reward]).generate(PROMPTS, temperature=0.0, max_new_tokens=8, eos_token_id=[])
    for row, prompt in zip(out.tokens, PROMPTS, strict=True):
        expected = plain_greedy([base.eval(), reward.eval()], [1.0, 1.0], prompt, 8, eos=None)
        assert row.tolist()[: len(expected)] == expected


@pytest.mark.parametrize(
    ("dtype", "engine"), [(torch.bfloat16, "hf"), (torch.float16, "auto"), (torch.float64, "auto")]
)
def test_models_of_other_dtypes_decode_and_may_be_mixed(dtype: torch.dtype, engine: Any) -> None:
    base, reward = make_model("llama", seed=1).to(dtype), make_model("llama", seed=2)
    decoder = GuidedDecoder(base, [reward], engine=engine)
    out = decoder.generate(PROMPTS, max_new_tokens=4, return_logprobs=True)
    assert not out.errors
    assert out.logprobs is not None and out.logprobs.dtype == torch.float32
    assert out.model_logprobs is not None and out.model_logprobs.dtype == torch.float32


@pytest.mark.parametrize(("default", "engine"), [(torch.float64, "hf"), (torch.bfloat16, "auto")])
def test_torchs_default_dtype_does_not_matter(default: torch.dtype, engine: Any) -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1), [make_model("llama", seed=2)], engine=engine)
    options: dict[str, Any] = {"return_logprobs": True, "logit_bias": {5: 1.0}, "allowed_tokens": range(90)}
    expected = decoder.generate(PROMPTS, max_new_tokens=4, **options)
    torch.set_default_dtype(default)
    try:
        found = decoder.generate(PROMPTS, max_new_tokens=4, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.sequences, expected.sequences)
    assert found.logprobs is not None and expected.logprobs is not None
    assert torch.equal(found.logprobs, expected.logprobs)
