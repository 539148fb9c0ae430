"""GuidedDecoder's own rules: what ends a row, chunks, stats, models left as they were, constructor arguments."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from families import FAMILIES, left_padded, make_model, plain_greedy, random_prompts, save_adapter
from torch import nn

import genarm
from genarm import GuidedDecoder, InvalidArgumentError, UnsupportedModelError


@pytest.fixture(scope="module")
def decoder() -> GuidedDecoder:
    return GuidedDecoder(make_model("llama", seed=1), {"r": make_model("llama", seed=2, hidden=16)})


PROMPTS = random_prompts([6, 11, 3], seed=1)


def run(decoder: GuidedDecoder, **options: Any) -> genarm.GenerationOutput:
    return decoder.generate(PROMPTS, **{"max_new_tokens": 10, "seed": 5, "eos_token_id": [], **options})


def test_an_eos_id_ends_its_row_and_is_kept(decoder: GuidedDecoder) -> None:
    free = run(decoder)
    first, second = int(free.tokens[0][3]), int(free.tokens[1][6])
    for eos in ([first, second], torch.tensor([first, second]), (second, first)):
        out = run(decoder, eos_token_id=eos)
        for row, whole in zip(out.tokens, free.tokens, strict=True):
            hits = [index for index, token in enumerate(whole.tolist()) if token in (first, second)]
            assert row.tolist() == whole.tolist()[: hits[0] + 1 if hits else 10]
        assert out.finish_reasons[:2] == ["eos", "eos"]
    only = run(decoder, eos_token_id=first)
    assert only.finish_reasons[0] == "eos" and int(only.tokens[0][-1]) == first


def test_an_empty_list_of_eos_never_stops_and_none_takes_the_models(decoder: GuidedDecoder) -> None:
    config = decoder.generation_config
    token = int(run(decoder).tokens[0][2])
    saved = config.eos_token_id
    config.eos_token_id = token
    try:
        assert run(decoder).finish_reasons == ["length"] * 3
        assert all(len(row) == 10 for row in run(decoder).tokens)
        out = run(decoder, eos_token_id=None)
        assert out.finish_reasons[0] == "eos" and int(out.tokens[0][-1]) == token
        config.eos_token_id = [90, token]
        assert run(decoder, eos_token_id=None).finish_reasons[0] == "eos"
        config.eos_token_id = None
        assert run(decoder, eos_token_id=None).finish_reasons == ["length"] * 3
    finally:
        config.eos_token_id = saved


def test_eos_in_the_prompt_does_not_stop(decoder: GuidedDecoder) -> None:
    out = run(decoder, eos_token_id=[int(PROMPTS[0][-1])])
    assert len(out.tokens[0]) > 1 or int(out.tokens[0][0]) == int(PROMPTS[0][-1])


def test_a_stop_sequence_ends_its_row_with_its_last_token(decoder: GuidedDecoder) -> None:
    free = [row.tolist() for row in run(decoder).tokens]
    pair, single = free[0][2:4], free[1][5:6]
    for stop in ([pair, single], (tuple(pair), tuple(single)), [torch.tensor(pair), torch.tensor(single)]):
        out = run(decoder, stop=stop)
        assert out.tokens[0].tolist() == free[0][:4]
        assert out.tokens[1].tolist() == free[1][: free[1].index(single[0]) + 1]
        assert out.finish_reasons[:2] == ["stop", "stop"]


def test_a_stop_sequence_must_be_generated_in_order_and_in_full(decoder: GuidedDecoder) -> None:
    free = [row.tolist() for row in run(decoder).tokens]
    assert run(decoder, stop=[free[0][2:4][::-1], free[0] + [5]]).finish_reasons[0] == "length"
    across = [int(PROMPTS[0][-1]), free[0][0]]  # half of it is the prompt's
    assert len(run(decoder, stop=[across]).tokens[0]) == 10
    assert run(decoder, stop=[]).finish_reasons == ["length"] * 3


def test_a_token_that_ends_in_two_ways_counts_as_eos_then_stop_then_length(decoder: GuidedDecoder) -> None:
    token = int(run(decoder).tokens[0][0])
    assert run(decoder, eos_token_id=token, stop=[[token]], max_new_tokens=1).finish_reasons[0] == "eos"
    assert run(decoder, stop=[[token]], max_new_tokens=1).finish_reasons[0] == "stop"


def test_no_new_tokens_are_none(decoder: GuidedDecoder) -> None:
    ids, mask = left_padded(PROMPTS)
    out = decoder.generate(ids, mask, max_new_tokens=0, return_logprobs=True)
    assert torch.equal(out.sequences, ids)
    assert [len(row) for row in out.tokens] == [0, 0, 0]
    assert out.finish_reasons == ["length"] * 3
    assert out.logprobs is not None and out.logprobs.shape == (3, 0)
    assert out.model_logprobs is not None and out.model_logprobs.shape == (3, 0, 2)
    assert out.stats.steps == out.stats.new_tokens == 0
    assert out.stats.tokens_per_second == 0.0


def test_one_new_token_is_the_first_of_many(decoder: GuidedDecoder) -> None:
    one, many = run(decoder, max_new_tokens=1), run(decoder)
    assert torch.equal(one.sequences, many.sequences[:, : one.sequences.shape[1]])
    assert one.finish_reasons == ["length"] * 3
    assert one.stats.steps == 1


def test_the_default_is_128_tokens_from_the_plain_distribution() -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1))
    prompts = random_prompts([5], seed=2)
    out = decoder.generate(prompts, eos_token_id=[])
    assert len(out.tokens[0]) == 128
    explicit = decoder.generate(
        prompts, None, weights={}, beta=1.0, base_weight=1.0, reward_prompts=None, max_new_tokens=128, temperature=1.0,
        top_k=0, top_p=1.0, min_p=0.0, base_min_p=0.0, base_top_p=1.0, repetition_penalty=1.0, logit_bias=None,
        allowed_tokens=None, seed=0, eos_token_id=[], stop=None, streamer=None, return_logprobs=False, speculate=None,
    )  # fmt: skip
    assert torch.equal(out.sequences, explicit.sequences)


def test_the_default_weights_are_one_each(decoder: GuidedDecoder) -> None:
    assert torch.equal(run(decoder).sequences, run(decoder, weights={"r": 1.0}).sequences)
    assert not torch.equal(run(decoder).sequences, run(decoder, weights={"r": 0.0}).sequences)


def test_stats_count_tokens_steps_and_time(decoder: GuidedDecoder) -> None:
    out = run(decoder, eos_token_id=int(run(decoder).tokens[0][3]))
    stats = out.stats
    assert stats.prompt_tokens == 20
    assert stats.new_tokens == sum(len(row) for row in out.tokens)
    assert stats.steps == max(len(row) for row in out.tokens)
    assert stats.prefill_seconds > 0 and stats.decode_seconds > 0
    seconds = stats.prefill_seconds + stats.decode_seconds
    assert stats.tokens_per_second == pytest.approx(stats.new_tokens / seconds)
    assert (stats.drafted, stats.accepted) == (0, 0)
    assert isinstance(stats.engine, str) and stats.engine


@pytest.mark.parametrize("max_batch_size", [1, 2])
def test_chunks_give_the_same_result(decoder: GuidedDecoder, max_batch_size: int) -> None:
    chunked = GuidedDecoder(decoder.base_model, {"r": decoder.models[1].module}, max_batch_size=max_batch_size)
    options: dict[str, Any] = {
        "return_logprobs": True,
        "eos_token_id": int(run(decoder).tokens[0][3]),
        "weights": [{"r": 0.5}, {"r": -1.0}, {"r": 2.0}],
        "temperature": [1.0, 0.0, 1.5],
        "top_k": [0, 5, 20],
        "repetition_penalty": [1.0, 1.5, 1.0],
        "logit_bias": torch.randn(3, 97, generator=torch.Generator().manual_seed(0)),
        "reward_prompts": {"r": random_prompts([2, 7, 4], seed=9)},
    }
    whole, parts = run(decoder, **options), run(chunked, **options)
    assert torch.equal(whole.sequences, parts.sequences)
    assert whole.finish_reasons == parts.finish_reasons
    for one, other in ((whole.logprobs, parts.logprobs), (whole.model_logprobs, parts.model_logprobs)):
        torch.testing.assert_close(one, other, equal_nan=True, atol=1e-4, rtol=0)
    assert parts.stats.new_tokens == whole.stats.new_tokens
    assert parts.stats.prompt_tokens == whole.stats.prompt_tokens


def snapshot(module: nn.Module) -> dict[str, Any]:
    hooks = [len(part._forward_hooks) + len(part._forward_pre_hooks) for part in module.modules()]
    return {
        "hooks": hooks,
        "training": [part.training for part in module.modules()],
        "trainable": [parameter.requires_grad for parameter in module.parameters()],
        "grads": [parameter.grad for parameter in module.parameters()],
        "pointers": [tensor.data_ptr() for tensor in module.state_dict().values()],
        "values": [tensor.clone() for tensor in module.state_dict().values()],
        "attributes": [sorted(vars(part)) for part in module.modules()],
    }


def assert_same(before: dict[str, Any], after: dict[str, Any]) -> None:
    values = zip(before.pop("values"), after.pop("values"), strict=True)
    assert all(torch.equal(one, other) for one, other in values)
    assert before == after


@pytest.mark.parametrize("family", FAMILIES)
def test_the_modules_are_left_as_they_were(family: str) -> None:
    base, reward = make_model(family, seed=1), make_model(family, seed=2)
    base.train()
    base.get_input_embeddings().eval()
    for model in (base, reward):
        for parameter in list(model.parameters())[::2]:
            parameter.requires_grad_(False)
    before = snapshot(base), snapshot(reward)
    config = base.generation_config.to_dict()
    decoder = GuidedDecoder(base, [reward])
    for model, taken in zip((base, reward), before, strict=True):
        # Parameters of layers that were fused are views of the fused storage from here on.
        taken["pointers"] = snapshot(model)["pointers"]
    decoder.generate(PROMPTS, max_new_tokens=3)
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
    short, long = (
        decoder.stream(PROMPTS, max_new_tokens=2, **options),
        decoder.stream(PROMPTS, max_new_tokens=6, **options),
    )
    steps = []
    for index in range(6):
        if index < 3:
            next(short, None)
        steps.append(next(long))
        assert_same(dict(before), snapshot(base))
    for row, tokens in enumerate(expected.tokens):
        assert torch.equal(torch.cat([step.tokens[row] for step in steps]), tokens)


def test_a_forward_pass_that_fails_leaves_the_modules_as_they_were(tmp_path: Path) -> None:
    base = make_model("llama", seed=1).train()
    decoder = GuidedDecoder(base, [save_adapter(base, "llama", tmp_path, seed=2)])

    def fail(*_: Any) -> None:
        raise MemoryError

    hook = base.lm_head.register_forward_pre_hook(fail)
    before = snapshot(base)
    with pytest.raises(MemoryError):
        decoder.generate(PROMPTS, max_new_tokens=2)
    assert_same(before, snapshot(base))
    hook.remove()


def test_dropout_is_off_in_a_module_in_training_mode() -> None:
    base, reward = make_model("gpt2", seed=1).train(), make_model("gpt2", seed=2).train()
    assert base.transformer.drop.p > 0
    out = GuidedDecoder(base, [reward]).generate(PROMPTS, temperature=0.0, max_new_tokens=8, eos_token_id=[])
    assert base.training and base.transformer.drop.training and reward.transformer.drop.training
    for row, prompt in zip(out.tokens, PROMPTS, strict=True):
        expected = plain_greedy([base.eval(), reward.eval()], [1.0, 1.0], prompt, 8, eos=None)
        assert row.tolist()[: len(expected)] == expected


def test_outputs_carry_no_gradient(decoder: GuidedDecoder) -> None:
    out = run(decoder, return_logprobs=True)
    assert out.logprobs is not None and not out.logprobs.requires_grad
    assert out.model_logprobs is not None and not out.model_logprobs.requires_grad


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_models_of_other_dtypes_decode_and_may_be_mixed(dtype: torch.dtype) -> None:
    base, reward = make_model("llama", seed=1).to(dtype), make_model("llama", seed=2)
    out = GuidedDecoder(base, [reward]).generate(PROMPTS, max_new_tokens=4, return_logprobs=True)
    assert not out.errors
    assert out.logprobs is not None and out.logprobs.dtype == torch.float32
    assert out.model_logprobs is not None and out.model_logprobs.dtype == torch.float32


@pytest.mark.parametrize("default", [torch.float64, torch.bfloat16])
def test_torchs_default_dtype_does_not_matter(decoder: GuidedDecoder, default: torch.dtype) -> None:
    options: dict[str, Any] = {"return_logprobs": True, "logit_bias": {5: 1.0}, "allowed_tokens": range(90)}
    expected = run(decoder, **options)
    torch.set_default_dtype(default)
    try:
        found = run(decoder, **options)
    finally:
        torch.set_default_dtype(torch.float32)
    assert torch.equal(found.sequences, expected.sequences)
    assert found.logprobs is not None and expected.logprobs is not None
    assert torch.equal(found.logprobs, expected.logprobs)


def test_a_compiled_model_is_seen_through() -> None:
    """Its own forward takes anything, but the model inside says what that is."""
    base = make_model("llama", seed=1)
    decoder = GuidedDecoder(torch.compile(base, backend="eager"))  # type: ignore[arg-type]
    assert {"position_ids", "past_key_values", "logits_to_keep"} <= decoder.models[0].accepts
    assert decoder.generation_config is base.generation_config
    assert decoder.max_length == 512


def test_positions_limit_max_length_to_the_shortest_model() -> None:
    long, short = make_model("llama", seed=1), make_model("gpt2", seed=2)
    assert GuidedDecoder(long).max_length == 512
    assert GuidedDecoder(long, [short]).max_length == 128
    assert GuidedDecoder(long, [short], max_length=30).max_length == 30
    with pytest.raises(genarm.PromptError, match="max_length = 128"):
        genarm.generate(long, torch.full((1, 100), 5), [short], max_new_tokens=29)
    assert not genarm.generate(long, torch.full((1, 100), 5), [short], max_new_tokens=28).errors


def test_what_the_decoder_says_of_itself(decoder: GuidedDecoder) -> None:
    assert decoder.reward_names == ("r",)
    assert decoder.vocab_size == 97
    assert decoder.device == torch.device("cpu")
    assert decoder.tokenizer is None
    assert isinstance(decoder.base_model, nn.Module)
    assert GuidedDecoder(decoder.base_model, [decoder.models[1].module] * 2).reward_names == ("reward_0", "reward_1")
    assert run(decoder).model_names == ("base", "r")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"base_model": "a-path"}, "base_model is a str"),
        ({"base_model": None}, "base_model is a NoneType"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_batch_size": True}, "max_batch_size is True"),
        ({"max_length": 1.5}, "max_length is 1.5"),
        ({"reward_models": 5}, "reward_models is a int"),
        ({"reward_models": "a-path"}, "single model"),
        ({"reward_models": [None]}, "'reward_0' is a NoneType"),
        ({"reward_models": [""]}, "'reward_0' is an empty path"),
        ({"reward_models": {"": "x"}}, "named ''"),
        ({"reward_models": {"base": "x"}}, "named 'base'"),
        ({"reward_models": {3: "x"}}, "named 3"),
        ({"reward_models": ["x"] * 8}, "8 reward models"),
    ],
)
def test_bad_constructor_arguments_are_named_in_one_line(arguments: dict[str, Any], cause: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        GuidedDecoder(**{"base_model": make_model("llama", seed=1), **arguments})
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_reward_model_on_another_device_is_refused() -> None:
    with pytest.raises((InvalidArgumentError, UnsupportedModelError), match="meta"):
        GuidedDecoder(make_model("llama", seed=1), [make_model("llama", seed=2).to("meta")])
    with pytest.raises(UnsupportedModelError, match="meta"):
        GuidedDecoder(make_model("llama", seed=1).to("meta"))


def test_seven_reward_models_fit() -> None:
    base, reward = make_model("llama", seed=1), make_model("llama", seed=2, hidden=16)
    out = GuidedDecoder(base, [reward] * 7).generate(PROMPTS, weights=[0.1] * 7, temperature=0.0, max_new_tokens=4)
    once = GuidedDecoder(base, [reward]).generate(PROMPTS, weights=[0.7], temperature=0.0, max_new_tokens=4)
    assert torch.equal(out.sequences, once.sequences)


@pytest.mark.parametrize("limit", [0, -1, 1.5])
def test_the_function_checks_its_sizes_too(limit: Any) -> None:
    for name in ("max_batch_size", "max_length"):
        with pytest.raises(InvalidArgumentError, match=name):
            genarm.generate(make_model("llama", seed=1), PROMPTS, **{name: limit})
    for prompts in (5, None):
        with pytest.raises(InvalidArgumentError, match="input_ids"):
            genarm.generate(make_model("llama", seed=1), prompts)  # type: ignore[arg-type]
