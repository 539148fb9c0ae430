"""Rotary frequencies that follow the length of the text: each row has those of its own, whatever is beside it."""

from __future__ import annotations

import copy
from typing import Any

import pytest
import torch
from families import VOCAB, make_model, random_prompts
from torch import Tensor
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
)

from genarm import GuidedDecoder, UnsupportedModelError
from genarm.models.causal import make_model as stream_model
from genarm.models.hf.session import HFBackbone

SWITCH = 16
SHAPE: dict[str, Any] = {
    "vocab_size": VOCAB, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "eos_token_id": None, "pad_token_id": 0, "bos_token_id": 1,
}  # fmt: skip
LONG = {"rope_type": "longrope", "short_factor": [1.0] * 4, "long_factor": [4.0, 3.0, 9.0, 16.0], "factor": 4.0}
DYNAMIC = {"rope_type": "dynamic", "factor": 4.0, "rope_theta": 1e4}


def longrope() -> Any:
    switch = {"original_max_position_embeddings": SWITCH, "max_position_embeddings": 64}
    return Phi3ForCausalLM(Phi3Config(**SHAPE, **switch, rope_parameters={**LONG, "rope_theta": 1e4}))


def dynamic() -> Any:
    return LlamaForCausalLM(LlamaConfig(**SHAPE, max_position_embeddings=SWITCH, rope_parameters=DYNAMIC))


def dynamic_in_some_layers() -> Any:
    rope = {"full_attention": DYNAMIC, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    types = ["sliding_attention", "full_attention"]
    config = Gemma3TextConfig(
        **SHAPE, head_dim=8, layer_types=types, max_position_embeddings=SWITCH, sliding_window=8, rope_parameters=rope
    )
    return Gemma3ForCausalLM(config)


@pytest.fixture(scope="module", params=[longrope, dynamic, dynamic_in_some_layers], ids=lambda make: make.__name__)
def plain(request: pytest.FixtureRequest) -> Any:
    torch.manual_seed(1)
    model = request.param().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    return model


def read_alone(plain: Any, text: Tensor) -> Tensor:
    """[V] after a text that a model reads first of all: transformers' dynamic scaling remembers longer ones."""
    with torch.no_grad():
        logits: Tensor = copy.deepcopy(plain)(input_ids=text[None]).logits[0, -1]
    return logits


def rotary_state(model: Any) -> list[Any]:
    parts = [part for part in model.modules() if hasattr(part, "max_seq_len_cached")]
    assert parts
    return [
        (name, value.tolist()) if isinstance(value, Tensor) else (name, value)
        for part in parts
        for name, value in (*vars(part).items(), *part.named_buffers())
        if name.endswith(("inv_freq", "max_seq_len_cached")) and "long_inv_freq" not in name
    ]


def test_every_step_is_the_text_read_alone(plain: Any) -> None:
    """Rows before, at and behind the switch, two that cross it, and the verbs in between."""
    before = rotary_state(plain)
    rows = random_prompts([3, SWITCH - 1, SWITCH, 25, 14, 25], seed=1)
    session = HFBackbone(stream_model("m", plain), 0).session(len(rows), 40)

    def check(logits: Tensor) -> None:
        expected = torch.stack([read_alone(plain, row) for row in rows])
        torch.testing.assert_close(logits, expected, atol=1e-4, rtol=0)

    check(session.prefill([rows])[0])
    for step in range(3):
        tokens = torch.stack(random_prompts([2 if step == 1 else 1] * len(rows), seed=10 + step))
        (logits,) = session.append(tokens)
        for place, column in enumerate(tokens.unbind(1)):
            rows = [torch.cat([row, token[None]]) for row, token in zip(rows, column, strict=True)]
            check(logits[:, place])
    session.copy([3, 0], [0, 1])
    rows[:2] = [rows[3], rows[0]]
    session.truncate([10, 6, 15, 20, 8, 29])
    rows = [row[:size] for row, size in zip(rows, (10, 6, 15, 20, 8, 29), strict=True)]
    assert session.lengths.tolist() == [[10, 6, 15, 20, 8, 29]]
    tokens = torch.stack(random_prompts([1] * 6, seed=20))
    (logits,) = session.append(tokens)
    rows = [torch.cat([row, token]) for row, token in zip(rows, tokens, strict=True)]
    check(logits[:, 0])
    with pytest.raises(IndexError, match="do not fit"):
        session.append(torch.zeros(6, 20, dtype=torch.int64))
    assert rotary_state(plain) == before


def test_short_texts_take_the_static_cache(plain: Any) -> None:
    """… even where the module has read a long one before, which dynamic scaling remembers."""
    model = copy.deepcopy(plain)
    model(input_ids=random_prompts([40])[0][None])
    backbone = HFBackbone(stream_model("m", model), 0)
    prompt = random_prompts([SWITCH - 3], seed=2)[0]
    for length, kind in ((SWITCH, "hf"), (SWITCH + 1, "hf-padded")):
        session = backbone.session(1, length)
        torch.testing.assert_close(session.prefill([[prompt]])[0][0], read_alone(plain, prompt), atol=1e-4, rtol=0)
        assert backbone.kind == kind


def test_a_reward_model_has_frequencies_of_its_own_texts(plain: Any) -> None:
    """A base of another kind guided by one of these, on prompts of its own."""
    prompts, own = random_prompts([4, 9], seed=3), random_prompts([20, 12], seed=4)
    base = make_model("llama", seed=1)
    out = GuidedDecoder(base, {"r": plain}).generate(
        prompts, reward_prompts={"r": own}, max_new_tokens=6, eos_token_id=[], return_logprobs=True
    )
    assert out.model_logprobs is not None
    for row, prompt in enumerate(own):
        for step, token in enumerate(out.tokens[row]):
            expected = read_alone(plain, torch.cat([prompt, out.tokens[row][:step]])).log_softmax(-1)[token]
            assert float(out.model_logprobs[row, step, 1]) == pytest.approx(float(expected), abs=1e-4)


def test_hooks_that_may_know_rows_are_not_given_some_of_them(plain: Any) -> None:
    model = copy.deepcopy(plain)
    seen: list[int] = []
    model.register_forward_pre_hook(
        lambda _module, _args, kwargs: seen.append(len(kwargs["input_ids"])), with_kwargs=True
    )
    decoder = GuidedDecoder(model)
    decoder.generate(random_prompts([20] * 3), max_new_tokens=3)
    assert set(seen) == {3}
    with pytest.raises(UnsupportedModelError, match="hooks, which may know the batch's rows"):
        decoder.generate(random_prompts([20, 3, 5]), max_new_tokens=3)
