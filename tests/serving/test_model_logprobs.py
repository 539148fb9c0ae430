"""Every model's log-probability of each token, in the rows that ask for it, is what the embedded engine says."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from served_cases import NAMES, PROMPTS, RUNNER_V2, TOKENS, WEIGHTS, decoder, expected, extra, ids
from vllm import SamplingParams
from vllm.exceptions import VLLMValidationError

from genarm.serving.model_logprobs import split

ASK = {"model_logprobs": True}
LONG = 2 * TOKENS  # so that requests grow beyond their first block
CLOSE: dict[str, Any] = {"atol": 2e-4, "rtol": 1e-5}  # float32, summed in another order


@pytest.fixture(scope="module")
def llm(engine: Callable[..., Any]) -> Iterator[Any]:
    """Room for fewer tokens than 16 requests come to, so that some have to give their place up and begin again."""
    room = {"block_size": 32, "num_gpu_blocks_override": 22, "max_num_seqs": 16, "disable_log_stats": False}
    with engine(**room, enable_prefix_caching=True) as llm:
        yield llm


def told(output: Any) -> torch.Tensor:
    """[n, 1 + K], what a completion says of its tokens."""
    plain, found = split(output.outputs[0].logprobs, NAMES)
    assert found is not None and list(found) == ["base", *NAMES]
    assert len(plain) == len(output.outputs[0].token_ids)
    return torch.tensor(list(found.values())).T


def scored(wide: Path, outputs: Any) -> list[torch.Tensor]:
    """[n, 1 + K] of each, what the embedded engine says of the same tokens."""
    prompts, tokens = ids(outputs)
    found = decoder(wide).score(prompts, tokens).model_logprobs
    return [rows[: len(row)] for rows, row in zip(found, tokens, strict=True)]


def preemptions(llm: Any) -> float:
    return sum(one.value for one in llm.get_metrics() if one.name == "vllm:num_preemptions")


def test_rows_of_one_batch_have_them_where_they_ask(llm: Any, wide: Path) -> None:
    """Requests with weights and logprobs of their own, of which every other one asks. Some lose their place midway."""
    weights = [WEIGHTS[index % len(WEIGHTS)] for index in range(len(PROMPTS))]
    own = [(None, 0, 1, 3)[index % 4] for index in range(len(PROMPTS))]

    def generated(asking: bool) -> Any:
        asks = [ASK if asking and index % 2 else {} for index in range(len(PROMPTS))]
        told: dict[str, Any] = {"temperature": 0.0, "max_tokens": LONG, "ignore_eos": True}
        extras = [{**extra(one), **ask} for one, ask in zip(weights, asks, strict=True)]
        params = [SamplingParams(**told, logprobs=k, extra_args=one) for k, one in zip(own, extras, strict=True)]
        return llm.generate(PROMPTS, params)

    outputs, plain = generated(True), generated(False)
    assert preemptions(llm) > 0
    prompts, tokens = ids(outputs)
    for row, greedy in zip(tokens, expected(wide, prompts, weights, LONG), strict=True):
        assert len(row) == LONG and row[: len(greedy)] == greedy
    for index, (output, other, found) in enumerate(zip(outputs, plain, scored(wide, outputs), strict=True)):
        if index % 2:
            torch.testing.assert_close(told(output), found, **CLOSE)
        ours, others = output.outputs[0].logprobs, other.outputs[0].logprobs
        if own[index] is None:
            assert ours is None and others is None
            continue
        assert index % 2 or split(ours, NAMES) == (ours, None)
        for step, same in zip(split(ours, NAMES)[0], others, strict=True):
            assert values(step) == pytest.approx(values(same), abs=1e-3)


def values(step: Any) -> dict[int, float]:
    return {token: entry.logprob for token, entry in step.items()}


def test_drawn_tokens_have_them_up_to_what_ends_a_text(llm: Any, wide: Path) -> None:
    """Several answers per prompt, drawn with filters, some ended by strings, and prompts read from a cached prefix."""
    top_p = 1.0 if RUNNER_V2 else 0.9  # Triton's interpreter cannot run v2's kernel of top-p
    params = SamplingParams(
        n=3,
        temperature=1.3,
        top_p=top_p,
        seed=5,
        max_tokens=TOKENS,
        stop=["a", "the"],
        logprobs=0,
        extra_args=dict(ASK),
    )
    text = " ".join(PROMPTS[:12])
    llm.generate([text], SamplingParams(max_tokens=1))
    outputs = llm.generate([text, *PROMPTS[:3]], params)
    assert outputs[0].num_cached_tokens > 0
    answers = [copied(output, place) for output in outputs for place in range(3)]
    assert {one.outputs[0].finish_reason for one in answers} >= {"stop"}
    assert len({len(one.outputs[0].token_ids) for one in answers}) > 2
    for answer, found in zip(answers, scored(wide, answers), strict=True):
        torch.testing.assert_close(told(answer), found, **CLOSE)


def copied(output: Any, place: int) -> Any:
    """The request's output with one of its answers."""
    return SimpleNamespace(prompt_token_ids=output.prompt_token_ids, outputs=[output.outputs[place]])


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"logprobs": None}, "ask for them as well"),
        ({"logprobs": -1}, "leave one of them out|greater than max"),
        ({"logprobs": 1, "extra_args": {"model_logprobs": "yes"}}, "use true or false"),
        ({"logprobs": 1, "extra_args": {"model_logprob": 1}}, "did you mean 'model_logprobs'"),
    ],
)
def test_a_question_that_cannot_be_answered_is_refused_alone(llm: Any, settings: Any, message: str) -> None:
    with pytest.raises(VLLMValidationError, match=message):
        llm.generate(PROMPTS[:1], SamplingParams(max_tokens=2, **{"extra_args": dict(ASK), **settings}))
    assert llm.generate(PROMPTS[:1], SamplingParams(max_tokens=2))[0].outputs[0].token_ids
