"""Two processes share every layer of every model, and decode what the embedded engine decodes."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served_cases import PROMPTS, TOKENS, WEIGHTS, expected, extra, greedy, ids
from vllm import SamplingParams


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
