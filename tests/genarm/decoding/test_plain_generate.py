"""With no reward model, or only weights of 0, decoding is the base model's own ``generate``, padding and all."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
import transformers
from families import FAMILIES, VOCAB, left_padded, make_model, random_prompts, right_padded

import genarm
from genarm import GuidedDecoder

STEPS = 12
COMMON = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GROUPED = {"num_attention_heads": 4, "num_key_value_heads": 2, "num_hidden_layers": 2, "intermediate_size": 32}
# model class -> what its configuration needs; positions are learned, rotary, relative or in the mask (alibi)
OTHER_FAMILIES: dict[str, dict[str, Any]] = {
    "OPT": {
        "hidden_size": 32,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "ffn_dim": 32,
        "word_embed_proj_dim": 32,
    },
    "Bloom": {"hidden_size": 32, "n_layer": 2, "n_head": 4},
    "Mpt": {"d_model": 32, "n_layers": 2, "n_heads": 4, "max_seq_len": 64, "expansion_ratio": 2},
    "GPTNeoX": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32},
    "Phi": {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 32},
    "Mistral": {"hidden_size": 32, "sliding_window": 5, **GROUPED},
    "Mixtral": {"hidden_size": 32, "num_local_experts": 4, **GROUPED},
    "Gemma2": {"hidden_size": 32, "sliding_window": 6, "head_dim": 8, **GROUPED},
}


def with_eos_in_reach(model: Any, prompts: list[torch.Tensor], eos: int = 2) -> Any:
    """Make EOS the most likely token somewhere on the way of some rows, but not of all."""
    out = model.generate(prompts[0][None], max_new_tokens=5, do_sample=False, eos_token_id=[])
    model.generation_config.eos_token_id = [eos, int(out[0, -1])]
    return model


def hf_greedy(model: Any, ids: torch.Tensor, mask: torch.Tensor, **options: Any) -> torch.Tensor:
    options = {"max_new_tokens": STEPS, "do_sample": False, **options}
    return model.generate(input_ids=ids, attention_mask=mask, **options)


@pytest.mark.parametrize("penalty", [1.0, 1.3, 0.8])
@pytest.mark.parametrize("family", FAMILIES)
def test_no_reward_model_equals_generate(family: str, penalty: float) -> None:
    prompts = random_prompts([6, 11, 3], seed=1)
    model = with_eos_in_reach(make_model(family, seed=1), prompts)
    ids, mask = left_padded(prompts)
    # Transformers counts padding among the tokens seen, GuidedDecoder does not: so neither may draw it.
    expected = hf_greedy(model, ids, mask, repetition_penalty=penalty, suppress_tokens=[0])
    options = {"repetition_penalty": penalty, "logit_bias": {0: -math.inf}}
    out = GuidedDecoder(model).generate(ids, mask, temperature=0.0, max_new_tokens=STEPS, **options)
    assert torch.equal(out.sequences, expected)
    assert out.sequences.dtype == torch.int64


def test_rows_end_early_and_are_padded_in_these_tests() -> None:
    """The tests above compare something: some row ends before the others, and is padded."""
    prompts = random_prompts([6, 11, 3], seed=1)
    model = with_eos_in_reach(make_model("llama", seed=1), prompts)
    out = GuidedDecoder(model).generate(prompts, temperature=0.0, max_new_tokens=STEPS)
    assert out.finish_reasons[0] == "eos"
    assert "length" in out.finish_reasons
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
    prompts = random_prompts([6, 11, 3], seed=2)
    ids, mask = left_padded(prompts)
    expected = hf_greedy(model, ids, mask)
    decoder = GuidedDecoder(model)
    assert torch.equal(decoder.generate(ids, mask, temperature=0.0, max_new_tokens=STEPS).sequences, expected)
    ids, mask = right_padded(prompts)
    right = decoder.generate(ids, mask, temperature=0.0, max_new_tokens=STEPS)
    assert torch.equal(right.sequences[:, ids.shape[1] :], expected[:, ids.shape[1] :])


@pytest.mark.parametrize("base_weight", [1.0, 2.5])
def test_weights_of_zero_equal_generate(base_weight: float) -> None:
    """A positive weight of the base alone does not change the largest score; reward models are left out whatever
    they say, NaN included."""
    prompts = random_prompts([6, 11, 3], seed=1)
    model = with_eos_in_reach(make_model("llama", seed=1), prompts)
    broken = make_model("llama", seed=9)
    with torch.no_grad():
        broken.lm_head.weight.fill_(torch.nan)
    ids, mask = left_padded(prompts)
    out = GuidedDecoder(model, {"a": make_model("gpt2", seed=2), "b": broken}).generate(
        ids, mask, weights={"a": 0.0, "b": 0.0}, base_weight=base_weight, temperature=0.0, max_new_tokens=STEPS
    )
    assert not out.errors
    assert torch.equal(out.sequences, hf_greedy(model, ids, mask))


def test_no_reward_model_samples_what_weights_of_zero_sample() -> None:
    model = make_model("llama", seed=1)
    prompts = random_prompts([6, 11, 3], seed=1)
    plain = GuidedDecoder(model).generate(prompts, seed=5, max_new_tokens=STEPS)
    zero = GuidedDecoder(model, [make_model("llama", seed=2)]).generate(
        prompts, weights=[0.0], seed=5, max_new_tokens=STEPS
    )
    assert torch.equal(plain.sequences, zero.sequences)


def test_padding_is_the_pad_id_else_eos_else_zero() -> None:
    prompts = random_prompts([6, 11, 3], seed=1)
    ids, mask = left_padded(prompts)
    model = with_eos_in_reach(make_model("llama", seed=1), prompts)
    eos = model.generation_config.eos_token_id

    def padding(pad: int | None, **options: Any) -> int:
        model.generation_config.pad_token_id = model.config.pad_token_id = pad
        return int(
            GuidedDecoder(model).generate(ids, mask, temperature=0.0, max_new_tokens=STEPS, **options).sequences[0, -1]
        )

    assert padding(7) == 7
    assert padding(None) == eos[0] == 2
    # generate() takes the first of the ids it is given, whatever their order
    for given in ([eos[1], 2], [eos[1]], eos[1]):
        assert padding(None, eos_token_id=given) == eos[1]
        expected = hf_greedy(model, ids, mask, eos_token_id=given)
        out = GuidedDecoder(model).generate(ids, mask, temperature=0.0, max_new_tokens=STEPS, eos_token_id=given)
        assert torch.equal(out.sequences, expected)
    model.generation_config.eos_token_id = None
    assert padding(None, stop=[[eos[1]]]) == 0


def test_the_function_equals_the_class() -> None:
    model, reward = make_model("llama", seed=1), make_model("llama", seed=2)
    ids, mask = left_padded(random_prompts([6, 11, 3], seed=1))
    one = genarm.generate(model, ids, [reward], [0.7], attention_mask=mask, max_new_tokens=STEPS, seed=3)
    two = GuidedDecoder(model, [reward]).generate(ids, mask, weights=[0.7], max_new_tokens=STEPS, seed=3)
    assert torch.equal(one.sequences, two.sequences)
    by_name = genarm.generate(
        model, ids, reward_models={"r": reward}, weights={"r": 0.7}, attention_mask=mask, max_new_tokens=STEPS, seed=3
    )
    assert torch.equal(one.sequences, by_name.sequences)
