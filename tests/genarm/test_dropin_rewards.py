"""The drop-in with reward models: its own keywords, several sequences a prompt, and what it refuses."""

from __future__ import annotations

import gc
from pathlib import Path
from typing import Any
from weakref import ref

import pytest
import torch
from families import left_padded, make_model, plain_greedy, random_prompts, save_adapter, with_adapter
from peft import PrefixTuningConfig, get_peft_model

from genarm import (
    GenARMError,
    GuidedDecoder,
    PromptError,
    RewardNameError,
    UnsupportedGenerationError,
    custom_generate,
    generate,
)
from genarm.reuse import shared_decoder

PROMPTS = random_prompts([6, 11, 3], seed=1)
IDS, MASK = left_padded(PROMPTS)
BATCH: dict[str, Any] = {"input_ids": IDS, "attention_mask": MASK}
OURS: dict[str, Any] = {**BATCH, "custom_generate": custom_generate}


def assert_plain_loop(out: torch.Tensor, plain: list[Any], weights: list[float]) -> None:
    for row, prompt in enumerate(PROMPTS):
        expected = plain_greedy(plain, weights, prompt, out.shape[1] - 11)
        assert out[row, 11 : 11 + len(expected)].tolist() == expected


def test_guided_greedy_is_the_plain_loop(reward: Any, tmp_path: Path, engine: str) -> None:
    model = make_model("llama", seed=1)
    adapter = save_adapter(model, "llama", tmp_path / "a", seed=4)
    plain = [make_model("llama", seed=1), with_adapter(model, adapter), reward]
    forms: list[tuple[Any, Any]] = [
        ({"a": str(adapter), "b": reward}, {"a": 1.2, "b": -0.6}),
        ([adapter, reward], [1.2, -0.6]),
        ([adapter, reward], [{"reward_0": 1.2, "reward_1": -0.6}] * 3),
        ([adapter, reward], torch.tensor([[1.2, -0.6]] * 3)),
    ]
    outs = [
        model.generate(**OURS, reward_models=models, reward_weights=weights, max_new_tokens=8, do_sample=False)
        for models, weights in forms
    ]
    assert all(torch.equal(out, outs[0]) for out in outs)
    assert_plain_loop(outs[0], plain, [1.0, 1.2, -0.6])


def test_every_keyword_of_its_own_reaches_the_decoder(base: Any, reward: Any) -> None:
    options: dict[str, Any] = {
        "reward_prompts": {"r": random_prompts([4, 2, 7], seed=9)}, "beta": 0.5, "base_weight": 0.8,
        "base_min_p": 0.05, "base_top_p": 0.95, "seed": 11, "max_new_tokens": 8,
    }  # fmt: skip
    found = base.generate(
        **OURS, reward_models={"r": reward}, reward_weights={"r": 0.7}, do_sample=True, top_k=0, **options
    )
    expected = GuidedDecoder(base, {"r": reward}).generate(IDS, MASK, weights={"r": 0.7}, **options)
    assert torch.equal(found, expected.sequences)


def test_several_sequences_a_prompt_each_with_their_prompts_settings(base: Any, reward: Any) -> None:
    call: dict[str, Any] = {"max_new_tokens": 6, "do_sample": True, "top_k": 0, "seed": 3, "num_return_sequences": 2}
    weights = [{"r": 0.0}, {"r": 1.0}, {"r": -2.0}]
    prompts = random_prompts([4, 2, 7], seed=9)
    found = base.generate(
        **OURS, **call, reward_models={"r": reward}, reward_weights=weights, reward_prompts={"r": prompts},
        beta=[1.0, 2.0, 0.5], base_weight=torch.tensor([1.0, 0.5, 2.0]),
    )  # fmt: skip
    assert found.shape == (6, 17)
    twice = [0, 0, 1, 1, 2, 2]
    expected = GuidedDecoder(base, {"r": reward}).generate(
        IDS[twice], MASK[twice], weights=[weights[row] for row in twice], seed=3, max_new_tokens=6,
        reward_prompts={"r": [prompts[row] for row in twice]}, beta=[1.0, 1.0, 2.0, 2.0, 0.5, 0.5],
        base_weight=[1.0, 1.0, 0.5, 0.5, 2.0, 2.0],
    )  # fmt: skip
    assert torch.equal(found, expected.sequences)
    assert not torch.equal(found[0], found[1]), "two sequences of one prompt differ"
    padded = left_padded(prompts)[0]
    tensors = base.generate(
        **OURS, **call, reward_models={"r": reward}, reward_weights=torch.tensor([[0.0], [1.0], [-2.0]]),
        beta=torch.tensor([1.0, 2.0, 0.5]), base_weight=[1.0, 0.5, 2.0], reward_prompts={"r": padded},
    )  # fmt: skip
    assert torch.equal(tensors, found)


def test_a_number_a_reward_model_is_not_taken_for_one_a_prompt(base: Any, reward: Any) -> None:
    """Two prompts, two sequences each, two reward models: [w_0, w_1] are the models' weights."""
    call: dict[str, Any] = {
        **OURS, "input_ids": IDS[:2], "attention_mask": MASK[:2], "max_new_tokens": 6, "do_sample": True, "seed": 3,
        "num_return_sequences": 2, "reward_models": [reward, make_model("llama", seed=3, hidden=16)],
    }  # fmt: skip
    expected = base.generate(**call, reward_weights={"reward_0": 1.5, "reward_1": -0.5})
    for weights in ([1.5, -0.5], torch.tensor([1.5, -0.5]), (1.5, -0.5)):
        assert torch.equal(base.generate(**call, reward_weights=weights), expected)


def test_row_seeds_are_one_for_each_returned_sequence(base: Any) -> None:
    call: dict[str, Any] = {**OURS, "max_new_tokens": 6, "do_sample": True, "num_return_sequences": 2}
    out = base.generate(**call, seed=torch.arange(6))
    assert len({tuple(row) for row in out.tolist()}) == 6
    with pytest.raises(GenARMError, match=r"seed is torch\.int64"):
        base.generate(**call, seed=torch.arange(3))


def test_a_peft_model_generates_with_its_adapter_as_the_base(reward: Any, tmp_path: Path, engine: str) -> None:
    base = make_model("llama", seed=1)
    policy = with_adapter(base, save_adapter(base, "llama", tmp_path / "policy", seed=4))
    options: dict[str, Any] = {"max_new_tokens": 8, "do_sample": False}
    expected = policy.generate(**BATCH, **options)
    assert torch.equal(policy.generate(**OURS, **options), expected)
    assert not torch.equal(expected, base.generate(**BATCH, **options))
    assert_plain_loop(policy.generate(**OURS, reward_models=[reward], **options), [policy, reward], [1.0, 1.0])


@pytest.mark.parametrize(
    ("options", "error", "cause"),
    [
        ({"reward_weights": {"x": 1.0}}, RewardNameError, "'x', which is not loaded"),
        ({"reward_prompts": {"r": [[], [3], [4]]}}, PromptError, "row 0: the r prompt is empty"),
        ({"attention_mask": torch.arange(3)[:, None].expand(3, 11)}, PromptError, "row 0: the base prompt is empty"),
        ({"num_beams": 2}, UnsupportedGenerationError, "num_beams = 2"),
        ({"penalty_alpha": 0.6, "top_k": 4}, UnsupportedGenerationError, "contrastive"),
        ({"prompt_lookup_num_tokens": 3}, UnsupportedGenerationError, "assisted"),
        ({"return_dict_in_generate": True, "output_attentions": True}, UnsupportedGenerationError, "output_attentions"),
        ({"input_ids": None, "inputs_embeds": torch.zeros(3, 11, 32)}, UnsupportedGenerationError, "inputs_embeds"),
        ({"inputs_embeds": torch.zeros(3, 11, 32)}, UnsupportedGenerationError, "inputs_embeds"),
        ({"position_ids": torch.arange(11).expand(3, 11) + 1}, UnsupportedGenerationError, "position_ids other than"),
    ],
)
def test_bad_arguments_other_modes_and_inputs_are_refused_in_one_line(
    base: Any, reward: Any, options: dict[str, Any], error: type[GenARMError], cause: str
) -> None:
    call = {**OURS, "max_new_tokens": 4, "reward_models": {"r": reward}, **options}
    with pytest.raises(error) as caught:
        base.generate(**{name: value for name, value in call.items() if value is not None})
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_what_the_model_would_read_beside_tokens_is_refused_rather_than_left_out() -> None:
    with pytest.raises(UnsupportedGenerationError, match="token_type_ids was passed"):
        make_model("gpt2", seed=1).generate(**OURS, token_type_ids=torch.ones_like(IDS), max_new_tokens=2)
    model = make_model("llama", seed=1)
    with pytest.raises(UnsupportedGenerationError, match="past_key_values that hold 10 tokens"):
        model.generate(
            IDS[:1],
            past_key_values=model(IDS[:1, :10]).past_key_values,
            max_new_tokens=2,
            custom_generate=custom_generate,
        )
    config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=3)
    model = get_peft_model(make_model("llama", seed=1), config).eval()
    for call in (lambda: model.generate(**OURS, max_new_tokens=2), lambda: GuidedDecoder(model)):
        with pytest.raises(GenARMError, match="virtual tokens"):
            call()


def test_a_row_that_fails_half_way_is_warned_of_and_the_others_finish(base: Any) -> None:
    clean, reward = make_model("llama", seed=2), make_model("llama", seed=2)
    token = next(token for token in PROMPTS[1].tolist() if token not in {*PROMPTS[0].tolist(), *PROMPTS[2].tolist()})
    with torch.no_grad():
        reward.model.embed_tokens.weight[token] = torch.nan
    call: dict[str, Any] = {**OURS, "max_new_tokens": 4, "do_sample": False, "reward_weights": [0.01]}
    with pytest.warns(UserWarning, match=r"row 1, new token 0: the logits of 'reward_0'"):
        out = base.generate(**call, reward_models=[reward])
    assert out[1, 11:].tolist() == [0] * 4
    assert torch.equal(out[0], base.generate(**call, reward_models=[clean])[0])


@pytest.mark.filterwarnings("error")
def test_the_base_of_an_adapter_is_the_caller_s_choice(tmp_path: Path) -> None:
    """In the drop-in and in one call; another base, or another rule, is another decoder, and none is kept alive."""
    model, other = make_model("llama", seed=1), make_model("llama", seed=6)
    rewards = {"a": save_adapter(model, "llama", tmp_path / "a", seed=4)}
    plain = [make_model("llama", seed=1), with_adapter(make_model("llama", seed=6), rewards["a"])]
    guided = {**OURS, "reward_models": rewards, "max_new_tokens": 5, "do_sample": False, "eos_token_id": None}
    out = model.generate(**guided, reward_bases={"a": other})
    assert_plain_loop(out, plain, [1.0, 1.0])
    once = generate(model, PROMPTS, rewards, reward_bases={"a": other}, temperature=0.0, max_new_tokens=5)
    assert torch.equal(once.sequences, out)
    given = model.generate(**guided)
    assert not torch.equal(given, out)
    choices: list[dict[str, Any]] = [
        {"reward_bases": {"a": other}},
        {"reward_bases": {"a": "base"}},
        {"check_vocabulary": False},
        {},
    ]
    assert len({id(shared_decoder(model, rewards, **choice)) for choice in choices}) == len(choices)
    assert torch.equal(model.generate(**guided, reward_bases={"a": model}), given)
    alive = [ref(model), ref(other)]
    choices.clear()
    del other, model, once
    gc.collect()
    assert [one() for one in alive] == [None, None]
