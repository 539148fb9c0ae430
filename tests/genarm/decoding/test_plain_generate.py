"""With no reward model decoding is the base model's own ``generate``, padding and all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, VOCAB, left_padded, make_model, random_prompts, right_padded

from genarm import GuidedDecoder

STEPS = 10
PROMPTS = random_prompts([6, 11, 3], seed=1)
IDS, MASK = left_padded(PROMPTS)
COMMON = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
HALVES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
# model class -> what its configuration needs; positions are learned, rotary in part, relative or in the mask (alibi)
OTHER_FAMILIES: dict[str, dict[str, Any]] = {
    "OPT": {**HALVES, "ffn_dim": 32, "word_embed_proj_dim": 32},
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2},
    "GPTNeoX": {**HALVES, "intermediate_size": 32},
    "Phi": {**HALVES, "intermediate_size": 32},
    "Mixtral": {**HALVES, "intermediate_size": 32, "num_key_value_heads": 2, "num_local_experts": 4},
}


def with_eos_in_reach(model: Any) -> Any:
    """Make EOS the most likely token somewhere on the way of some rows, but not of all."""
    out = model.generate(PROMPTS[0][None], max_new_tokens=5, do_sample=False, eos_token_id=[])
    model.generation_config.eos_token_id = [2, int(out[0, -1])]
    return model


def hf_greedy(model: Any, ids: torch.Tensor = IDS, mask: torch.Tensor = MASK, **options: Any) -> torch.Tensor:
    options = {"max_new_tokens": STEPS, "do_sample": False, **options}
    found: torch.Tensor = model.generate(input_ids=ids, attention_mask=mask, **options)
    return found


PENALTIES = [(family, "auto", (1.0, 1.3, 0.8)[index % 3]) for index, family in enumerate(FAMILIES)]


@pytest.mark.parametrize(("family", "engine", "penalty"), [*PENALTIES, ("llama", "hf", 1.3), ("qwen2", "hf", 1.0)])
def test_no_reward_model_equals_generate(family: str, engine: Any, penalty: float) -> None:
    model = with_eos_in_reach(make_model(family, seed=1))
    # Transformers counts padding among the tokens seen, GuidedDecoder does not: so neither may draw it.
    expected = hf_greedy(model, repetition_penalty=penalty, suppress_tokens=[0])
    options: dict[str, Any] = {"repetition_penalty": penalty, "logit_bias": {0: -math.inf}}
    decoder = GuidedDecoder(model, engine=engine)
    out = decoder.generate(IDS, MASK, temperature=0.0, max_new_tokens=STEPS, **options)
    assert torch.equal(out.sequences, expected)
    if family == "llama":
        assert {"eos", "length"} <= set(out.finish_reasons), "some rows are to end early and be padded"
        assert out.sequences[0, -1] == 0


@pytest.mark.parametrize("name", OTHER_FAMILIES)
def test_any_causal_lm_decodes_as_its_own_generate(name: str) -> None:
    torch.manual_seed(3)
    config = getattr(transformers, f"{name}Config")(**OTHER_FAMILIES[name], **COMMON)
    model = getattr(transformers, f"{name}ForCausalLM")(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(3.0)
    expected = hf_greedy(model)
    decoder = GuidedDecoder(model)
    assert torch.equal(decoder.generate(IDS, MASK, temperature=0.0, max_new_tokens=STEPS).sequences, expected)
    ids, mask = right_padded(PROMPTS)
    right = decoder.generate(ids, mask, temperature=0.0, max_new_tokens=STEPS)
    assert torch.equal(right.sequences[:, ids.shape[1] :], expected[:, ids.shape[1] :])


def test_padding_is_the_pad_id_else_eos_else_zero() -> None:
    model = with_eos_in_reach(make_model("llama", seed=1))
    eos = model.generation_config.eos_token_id

    def sequences(pad: int | None, **options: Any) -> torch.Tensor:
        model.generation_config.pad_token_id = model.config.pad_token_id = pad
        out = GuidedDecoder(model).generate(IDS, MASK, temperature=0.0, max_new_tokens=STEPS, **options)
        return out.sequences

    assert sequences(7)[0, -1] == 7
    assert sequences(None)[0, -1] == eos[0] == 2
    for given in ([eos[1], 2], eos[1]):  # generate() takes the first of the ids it is given, whatever their order
        found = sequences(None, eos_token_id=given)
        assert found[0, -1] == eos[1]
        assert torch.equal(found, hf_greedy(model, eos_token_id=given))
    model.generation_config.eos_token_id = None
    assert sequences(None, stop=[[eos[1]]])[0, -1] == 0
