"""Texts beyond max_position_embeddings: decoded as transformers does where positions are computed, refused where they
are looked up."""

from __future__ import annotations

import warnings
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from transformers import (
    FalconConfig,
    FalconForCausalLM,
    GPTJConfig,
    GPTJForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

import genarm
from genarm import GuidedDecoder, PromptError

USUAL = 32
SHAPE: dict[str, Any] = {"vocab_size": 97, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
IDS: dict[str, Any] = {"eos_token_id": None, "pad_token_id": 0, "bos_token_id": 1}
PROMPT = random_prompts([USUAL - 2], seed=1)[0][None]
GREEDY: dict[str, Any] = {"max_new_tokens": 6, "do_sample": False}


def rotary(**scaling: Any) -> Any:
    rope = {"rope_theta": 1e4, "rope_type": "default", **scaling}
    settings = {"intermediate_size": 48, "max_position_embeddings": USUAL, "rope_parameters": rope}
    return LlamaForCausalLM(LlamaConfig(**SHAPE, **IDS, **settings))


def alibi() -> Any:
    settings = {"alibi": True, "new_decoder_architecture": False, "max_position_embeddings": USUAL}
    return FalconForCausalLM(FalconConfig(**SHAPE, **IDS, **settings))


COMPUTED: dict[str, Any] = {
    "rotary": rotary,
    "linear": lambda: rotary(rope_type="linear", factor=4.0),
    "yarn": lambda: rotary(rope_type="yarn", factor=4.0, original_max_position_embeddings=USUAL),
    "alibi": alibi,
}
TABLES: dict[str, Any] = {
    "learned": lambda: make_model("gpt2", seed=1),
    "learned with an offset": lambda: OPTForCausalLM(
        OPTConfig(**SHAPE, **IDS, ffn_dim=32, max_position_embeddings=128, word_embed_proj_dim=32)
    ),
    "rotary angles": lambda: GPTJForCausalLM(
        GPTJConfig(vocab_size=97, n_embd=32, n_layer=1, n_head=4, rotary_dim=8, n_positions=128, **IDS)
    ),
}


def made(make: Any) -> Any:
    torch.manual_seed(1)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    return model


@pytest.mark.parametrize("make", COMPUTED.values(), ids=COMPUTED)
def test_computed_positions_go_on_as_in_transformers(engine: str, make: Any) -> None:
    model = made(make)
    expected = model.generate(PROMPT, **GREEDY)
    decoder = GuidedDecoder(model, max_length=None)
    with pytest.warns(UserWarning, match=f"came to {USUAL + 4} tokens, beyond the {USUAL} that base's configuration"):
        out = decoder.generate(PROMPT, temperature=0.0, max_new_tokens=6)
    assert torch.equal(out.sequences, expected)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        decoder.generate(PROMPT, max_new_tokens=6)  # said once
        GuidedDecoder(model).generate(PROMPT, max_new_tokens=2)  # not beyond
    with pytest.warns(UserWarning, match="beyond the 32"):
        assert torch.equal(model.generate(PROMPT, **GREEDY, custom_generate=genarm.custom_generate), expected)
    with pytest.raises(PromptError, match="max_length = 33"):
        GuidedDecoder(model, max_length=USUAL + 1).generate(PROMPT, max_new_tokens=6)


def test_dynamic_scaling_goes_on_with_each_text_s_own_frequencies() -> None:
    model = made(lambda: rotary(rope_type="dynamic", factor=4.0))
    text = PROMPT
    for _ in range(6):
        with torch.no_grad():
            text = torch.cat(
                [text, made(lambda: rotary(rope_type="dynamic", factor=4.0))(text).logits[:, -1:].argmax(-1)], 1
            )
    with pytest.warns(UserWarning, match="beyond the 32"):
        out = GuidedDecoder(model).generate(PROMPT, temperature=0.0, max_new_tokens=6)
    assert torch.equal(out.sequences, text)


@pytest.mark.parametrize("make", TABLES.values(), ids=TABLES)
def test_a_table_s_end_is_a_limit(make: Any) -> None:
    """Of a reward model too. Its base would go on."""
    model, base = made(make), make_model("llama", seed=2)
    for decoder in GuidedDecoder(model, max_length=None), GuidedDecoder(base, [model]):
        assert decoder.max_length == 128
        with pytest.raises(PromptError, match="max_length = 128"):
            decoder.generate(torch.full((1, 125), 5), max_new_tokens=4)
        decoder.generate(torch.full((1, 125), 5), max_new_tokens=3)


def test_auto_reckons_with_the_usual_length() -> None:
    assert GuidedDecoder(made(rotary), max_length=None, max_batch_size="auto").max_batch_size > 1
