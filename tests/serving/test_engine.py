"""vLLM's engine decodes what the embedded engine decodes, request by request, whatever else is in its batch."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from chi_square import assert_drawn_from, assert_not_drawn_from
from served_cases import BASE, PROMPTS, RUNNER_V2, TOKENS, WEIGHTS, decoder, expected, extra, greedy, guidance, ids
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from genarm.serving import versions

FEW_BLOCKS = {"block_size": 32, "num_gpu_blocks_override": 12}  # requests have to make room for others
DRAWS = 600 if RUNNER_V2 else 3000  # in the interpreter a draw takes 80 ms


@pytest.fixture(scope="module")
def llm(engine: Callable[..., Any]) -> Iterator[Any]:
    """A pass reads 64 tokens of all requests together, so prompts come in chunks; prefixes are cached."""
    with engine(max_num_batched_tokens=64, max_num_seqs=16, **FEW_BLOCKS, disable_log_stats=False) as llm:
        yield llm


def test_one_batch_of_20_prompts_is_the_embedded_engines(llm: Any, wide: Path) -> None:
    prompts, tokens = ids(llm.generate(PROMPTS, greedy()))
    assert len({len(prompt) for prompt in prompts}) > 5
    assert tokens == expected(wide, prompts, WEIGHTS[0], TOKENS)


def test_requests_of_one_batch_each_have_their_own_weights(llm: Any, wide: Path) -> None:
    texts = [text for text in PROMPTS[:4] for _ in WEIGHTS]
    weights = WEIGHTS * 4
    prompts, tokens = ids(llm.generate(texts, [greedy(**extra(one)) for one in weights]))
    assert tokens == expected(wide, prompts, weights, TOKENS)
    assert len({tuple(row) for row in tokens[: len(WEIGHTS)]}) == len(WEIGHTS)


def test_more_requests_than_places_each_have_their_own_weights(llm: Any, wide: Path) -> None:
    """They end at different times, and each place is taken by a request with other weights."""
    count = 48
    weights = [WEIGHTS[index % 4] for index in range(count)]
    tokens = [2 + index * 5 % 17 for index in range(count)]
    params = [greedy(most, **extra(one)) for most, one in zip(tokens, weights, strict=True)]
    prompts, found = ids(llm.generate([PROMPTS[index % 20] for index in range(count)], params))
    whole = expected(wide, prompts, weights, max(tokens))
    assert found == [row[:most] for row, most in zip(whole, tokens, strict=True)]


def test_a_request_that_made_room_for_others_goes_on_with_its_weights(llm: Any) -> None:
    """Eleven are let in with the one block that each needs, and soon need another."""
    text = llm.get_tokenizer().encode(" ".join(PROMPTS))
    prompts = [{"prompt_token_ids": text[start : start + 25]} for start in range(12)]
    params = [greedy(**extra(one)) for one in WEIGHTS * 3]
    for one in params:
        one.ignore_eos = True
    alone = [ids(llm.generate(*case))[1][0] for case in zip(prompts, params, strict=True)]
    before = preemptions(llm)
    _, together = ids(llm.generate(prompts, params))
    assert preemptions(llm) > before
    assert together == alone


def preemptions(llm: Any) -> float:
    return sum(float(metric.value) for metric in llm.get_metrics() if metric.name == "vllm:num_preemptions")


def test_penalties_act_on_the_combination(llm: Any, wide: Path) -> None:
    weights = WEIGHTS[:3]
    params = [greedy(**extra(one)) for one in weights]
    for one in params:
        one.repetition_penalty = 1.5
    prompts, tokens = ids(llm.generate(PROMPTS[:3], params))
    assert tokens == expected(wide, prompts, weights, TOKENS, repetition_penalty=1.5)
    assert tokens != expected(wide, prompts, weights, TOKENS)


def test_beta_and_the_base_weight_are_a_requests_own(llm: Any, wide: Path) -> None:
    prompts, tokens = ids(llm.generate(PROMPTS[:2], [greedy(beta=0.5), greedy(base_weight=2.0)]))
    assert tokens[:1] == expected(wide, prompts[:1], WEIGHTS[0], TOKENS, beta=0.5)
    assert tokens[1:] == expected(wide, prompts[1:], WEIGHTS[0], TOKENS, base_weight=2.0)
    assert tokens != expected(wide, prompts, WEIGHTS[0], TOKENS)


def test_a_cached_prefix_is_every_models(llm: Any, wide: Path) -> None:
    """A second request on the same text finds its blocks, also where a model had weight 0 in the first."""
    text = " ".join(PROMPTS)[:500]
    (prompt,), _ = ids(llm.generate([text], greedy(**extra(WEIGHTS[3]))))
    for weights in WEIGHTS[:3]:
        (again,) = llm.generate([text], greedy(**extra(weights)))
        assert again.num_cached_tokens >= 64
        assert ids([again])[1] == expected(wide, [prompt], weights, TOKENS)


def test_prompts_are_read_in_chunks(llm: Any, wide: Path) -> None:
    """Each is longer than a pass of the engine reads, and another is being decoded meanwhile."""
    texts = [" ".join(PROMPTS[start:])[:700] for start in (0, 5, 10)] + PROMPTS[:3]
    prompts, tokens = ids(llm.generate(texts, greedy()))
    assert min(map(len, prompts[:3])) > 64
    assert tokens == expected(wide, prompts, WEIGHTS[0], TOKENS)


def test_the_first_token_has_the_guided_distribution(llm: Any, wide: Path) -> None:
    weights = {"art": 1.0, "risk": 0.5, "wide": 0.1}
    params = SamplingParams(temperature=1.0, max_tokens=1, extra_args=extra(weights))
    outputs = llm.generate([PROMPTS[0]] * DRAWS, params)
    prompts, tokens = ids(outputs)
    drawn = torch.tensor([row[0] for row in tokens])
    assert_drawn_from(drawn, first_token(wide, prompts[0], weights))
    assert_not_drawn_from(drawn, first_token(wide, prompts[0], {**weights, "art": 1.5}))


def first_token(wide: Path, prompt: list[int], weights: dict[str, float]) -> torch.Tensor:
    """[V] float64: the guided distribution, by a forward pass of transformers' and PEFT's per model."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM

    scores = torch.zeros(4096, dtype=torch.float64)
    paths = {reward.name: reward.path for reward in guidance(wide).rewards}
    for name, weight in {"base": 1.0, **weights}.items():
        model: Any = AutoModelForCausalLM.from_pretrained(wide if name == "wide" else BASE, dtype=torch.float32)
        if name in ("art", "risk"):
            model = PeftModel.from_pretrained(model, paths[name])
        with torch.no_grad():
            scores += weight * model(torch.tensor([prompt])).logits[0, -1, :4096].double()
    return scores.softmax(-1)


@pytest.mark.skipif(RUNNER_V2, reason="runner v2 draws by counting, without a generator")
def test_a_seed_is_refused_where_chunks_would_end_the_engine(llm: Any) -> None:
    """vLLM cannot take back a draw from a CPU's generator, and tries to where a prompt is read in part."""
    with pytest.raises(VLLMValidationError, match="--max-num-batched-tokens"):
        llm.generate([PROMPTS[0]], SamplingParams(max_tokens=1, seed=1))


@pytest.mark.skipif(not RUNNER_V2, reason="runner v1 on a CPU refuses seeds where prompts are read in chunks")
def test_a_seed_gives_the_same_text_alone_and_in_a_batch(llm: Any) -> None:
    params = [SamplingParams(max_tokens=12, seed=seed) for seed in range(5)]
    _, together = ids(llm.generate(PROMPTS[:5], params))
    _, alone = ids(llm.generate([PROMPTS[3]], params[3]))
    _, other = ids(llm.generate([PROMPTS[3]], params[2]))
    assert alone == together[3:4] != other


def test_logprobs_are_the_guided_ones(llm: Any, wide: Path) -> None:
    (output,) = llm.generate([PROMPTS[1]], SamplingParams(temperature=0.0, max_tokens=8, logprobs=1))
    one = output.outputs[0]
    got = [step[token].logprob for step, token in zip(one.logprobs, one.token_ids, strict=True)]
    out = decoder(wide).generate(
        [list(output.prompt_token_ids)], weights=WEIGHTS[0], max_new_tokens=8, temperature=0.0, return_logprobs=True
    )
    torch.testing.assert_close(torch.tensor(got), out.logprobs[0, : len(got)], atol=1e-4, rtol=0)


@pytest.mark.parametrize(
    ("numbers", "message"),
    [
        ({"weights.tree": 1.0}, "no reward model has this name"),
        ({"weight.art": 1.0}, "did you mean 'weights.art'"),
        ({"weights.art": float("nan")}, "finite number"),
        ({"weights.art": "much"}, "finite number"),
        ({"beta": 0.0}, "above 0"),
        ({"weights.art": 0.0, "base_weight": 0.0}, "every weight is 0"),
    ],
)
def test_a_request_that_is_wrong_is_refused_alone(llm: Any, wide: Path, numbers: Any, message: str) -> None:
    with pytest.raises(VLLMValidationError, match=message):
        llm.generate([PROMPTS[0]], greedy(**numbers))
    prompts, tokens = ids(llm.generate(PROMPTS[:1], greedy()))
    assert tokens == expected(wide, prompts, WEIGHTS[0], TOKENS)


def test_scores_of_the_prompt_are_refused(llm: Any) -> None:
    scored = [[5]] if str(versions.installed()) >= "0.32" else [5]  # rows of ids since then
    for asked in ({"prompt_logprobs": 1}, {"prompt_logprob_token_ids": scored}):
        with pytest.raises(VLLMValidationError, match=next(iter(asked))):
            llm.generate([PROMPTS[0]], SamplingParams(max_tokens=1, **asked))
