"""Two processes share every layer of every model, and decode what the embedded engine decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from served_cases import NAMES, PROMPTS, TOKENS, WEIGHTS, decoder, expected, extra, greedy, ids
from vllm import SamplingParams

from genarm.serving.model_logprobs import split


@pytest.fixture(scope="module")
def llm(engine: Callable[..., Any]) -> Iterator[Any]:
    with engine(tensor_parallel_size=2) as llm:
        yield llm


def test_two_ranks_decode_the_embedded_engines_tokens(llm: Any, wide: Path) -> None:
    """The full reward model has one key-value head, which both ranks hold."""
    weights = WEIGHTS * 5
    prompts, tokens = ids(llm.generate(PROMPTS, [greedy(**extra(one)) for one in weights]))
    assert tokens == expected(wide, prompts, weights, TOKENS)


def test_a_seed_gives_the_same_text_alone_and_in_a_batch(llm: Any) -> None:
    def sampled(seed: int) -> SamplingParams:
        return SamplingParams(temperature=1.0, max_tokens=TOKENS, seed=seed)

    _, together = ids(llm.generate(PROMPTS, [sampled(seed) for seed in range(len(PROMPTS))]))
    for row in (0, 7, 19):
        _, alone = ids(llm.generate([PROMPTS[row]], sampled(row)))
        assert alone == [together[row]]
    _, other = ids(llm.generate([PROMPTS[0]], sampled(1)))
    assert other != [together[0]]


def test_two_ranks_tell_every_models_log_probabilities(llm: Any, wide: Path) -> None:
    asked = SamplingParams(temperature=1.0, seed=2, max_tokens=8, logprobs=1, extra_args={"model_logprobs": True})
    other = SamplingParams(temperature=0.0, max_tokens=8)
    outputs = llm.generate(PROMPTS[:4], [asked, other, asked, other])
    prompts, tokens = ids(outputs)
    found = decoder(wide).score(prompts, tokens).model_logprobs
    for row in (0, 2):
        _, told = split(outputs[row].outputs[0].logprobs, NAMES)
        assert told is not None
        torch.testing.assert_close(
            torch.tensor(list(told.values())).T, found[row, : len(tokens[row])], atol=2e-4, rtol=0
        )
