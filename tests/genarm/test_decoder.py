"""GuidedDecoder's own rules: defaults, chunks, stats, what it says of itself, and the arguments it refuses."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from torch import nn

import genarm
from genarm import GuidedDecoder, InvalidArgumentError, UnsupportedModelError, checks

PROMPTS = random_prompts([6, 11, 3], seed=1)


def run(decoder: GuidedDecoder, **options: Any) -> genarm.GenerationOutput:
    return decoder.generate(PROMPTS, **{"max_new_tokens": 10, "seed": 5, "eos_token_id": [], **options})


def test_the_default_is_128_tokens_and_weights_of_one(base: Any, decoder: GuidedDecoder) -> None:
    plain = GuidedDecoder(base)
    prompts = random_prompts([5], seed=2)
    out = plain.generate(prompts, eos_token_id=[])
    assert len(out.tokens[0]) == 128
    explicit = plain.generate(
        prompts, None, weights={}, beta=1.0, base_weight=1.0, reward_prompts=None, max_new_tokens=128, temperature=1.0,
        top_k=0, top_p=1.0, min_p=0.0, base_min_p=0.0, base_top_p=1.0, repetition_penalty=1.0, logit_bias=None,
        allowed_tokens=None, seed=0, eos_token_id=[], stop=None, num_return_sequences=1, streamer=None,
        return_logprobs=False,
    )  # fmt: skip
    assert torch.equal(out.sequences, explicit.sequences)
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


def test_a_compiled_model_is_seen_through(decoder: GuidedDecoder) -> None:
    """Its own forward takes anything, but the model inside says what that is."""
    base = make_model("llama", seed=1)
    module: Any = torch.compile(base, backend="eager")
    compiled = GuidedDecoder(module, [make_model("llama", seed=2, hidden=16)], engine="hf")
    assert compiled.generation_config is base.generation_config
    assert compiled.max_length == 4096
    with torch.compiler.set_stance("force_eager"):  # what is compiled makes no difference here, and takes its time
        assert torch.equal(run(compiled).sequences, run(decoder).sequences)


def test_a_table_of_positions_limits_max_length() -> None:
    long, short = make_model("llama", seed=1), make_model("gpt2", seed=2)
    assert GuidedDecoder(long).max_length == 4096
    assert GuidedDecoder(long, [short]).max_length == 128
    assert GuidedDecoder(long, [short], max_length=30).max_length == 30
    with pytest.raises(genarm.PromptError, match="max_length = 128"):
        genarm.generate(long, torch.full((1, 120), 5), [short], max_new_tokens=9)
    assert not genarm.generate(long, torch.full((1, 120), 5), [short], max_new_tokens=8).errors


def test_what_the_decoder_says_of_itself(base: Any, reward: Any, decoder: GuidedDecoder) -> None:
    assert decoder.reward_names == ("r",)
    assert decoder.vocab_size == 97
    assert decoder.device == torch.device("cpu")
    assert decoder.tokenizer is None
    assert decoder.base_model is base
    assert GuidedDecoder(base, [reward] * 2).reward_names == ("reward_0", "reward_1")
    assert run(decoder).model_names == ("base", "r")


@pytest.mark.parametrize(
    ("arguments", "cause"),
    [
        ({"base_model": "a-path"}, "base_model is a str"),
        ({"max_batch_size": 0}, "max_batch_size is 0"),
        ({"max_batch_size": True}, "max_batch_size is True"),
        ({"max_length": 1.5}, "max_length is 1.5"),
        ({"engine": "fast"}, "engine is 'fast': pass one of 'auto', 'eager', 'hf'"),
        ({"attention": "sdpa"}, "attention is 'sdpa': pass one of 'kernel', 'flash-attn'"),
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
def test_bad_constructor_arguments_are_named_in_one_line(base: Any, arguments: dict[str, Any], cause: str) -> None:
    with pytest.raises(InvalidArgumentError) as caught:
        GuidedDecoder(**{"base_model": base, **arguments})
    assert cause in str(caught.value)
    assert "\n" not in str(caught.value)


def test_flash_attn_is_refused_where_it_is_not_installed_or_does_not_run(
    base: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(checks, "why_not", lambda: "not installed")
    with pytest.raises(InvalidArgumentError, match="not installed"):
        GuidedDecoder(base, attention="flash-attn")
    monkeypatch.setattr(checks, "why_not", lambda: None)
    with pytest.raises(InvalidArgumentError, match=r"the base is torch.float32 on cpu: leave it at 'kernel'"):
        GuidedDecoder(base, attention="flash-attn")


def test_models_without_weights_are_refused(base: Any) -> None:
    with pytest.raises(UnsupportedModelError, match="has no weights"):
        GuidedDecoder(nn.Identity())
    with pytest.raises(UnsupportedModelError, match="meta"):
        GuidedDecoder(make_model("llama", seed=1).to("meta"))
    with pytest.raises((InvalidArgumentError, UnsupportedModelError), match="meta"):
        GuidedDecoder(base, [make_model("llama", seed=2).to("meta")])


def test_seven_reward_models_fit(base: Any, reward: Any) -> None:
    options: dict[str, Any] = {"temperature": 0.0, "max_new_tokens": 4}
    out = GuidedDecoder(base, [reward] * 7).generate(PROMPTS, weights=[0.1] * 7, **options)
    once = GuidedDecoder(base, [reward]).generate(PROMPTS, weights=[0.7], **options)
    assert torch.equal(out.sequences, once.sequences)
