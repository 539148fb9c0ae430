"""NaN in a model's logits ends the request they were for, with an error that names the model, and no other request."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from served_cases import (
    BROKEN,
    PROMPTS,
    RUNNER_V2,
    TOKENS,
    WEIGHTS,
    expected,
    extra,
    greedy,
    guidance,
    ids,
    make_broken_model,
)
from vllm import SamplingParams

from genarm.serving.bulk import _answer
from genarm.serving.settings import hf_overrides

COUNTED = "vllm:corrupted_requests"


@pytest.fixture(scope="module")
def broken(wide: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_broken_model(wide, tmp_path_factory.mktemp("broken") / "model")


@pytest.fixture(scope="module")
def llm(engine: Callable[..., Any], broken: Path) -> Iterator[Any]:
    """Few blocks of cache, so that those of a request that was ended are soon others'."""
    few = {"block_size": 32, "num_gpu_blocks_override": 24, "max_num_seqs": 16}
    with engine(hf_overrides=hf_overrides(guidance(broken)), disable_log_stats=False, **few) as llm:
        yield llm


def counted(llm: Any) -> float:
    return sum(float(metric.value) for metric in llm.get_metrics() if metric.name == COUNTED)


def test_a_row_with_nan_is_ended_and_costs_no_other_a_token(llm: Any, broken: Path) -> None:
    """Every third prompt breaks a model; of those, every other one gives that model no weight, and is decoded."""
    told = [llm.get_tokenizer().encode(text) for text in PROMPTS]
    prompts = [[*row[:2], BROKEN, *row[2:]] if index % 3 == 0 else row for index, row in enumerate(told)]
    weights = [WEIGHTS[1] if index % 6 == 0 else WEIGHTS[index % 3 * 2 % 4] for index in range(len(prompts))]
    ended = [index for index in range(len(prompts)) if index % 6 == 3]
    before = counted(llm)
    for _ in range(2):  # the second time in blocks that hold what the first left in them
        params = [greedy(**extra(one)) for one in weights]
        outputs = llm.generate([{"prompt_token_ids": row} for row in prompts], params)
        for index in ended:
            (one,) = outputs[index].outputs
            assert one.finish_reason == "error" and not one.token_ids
            assert "the logits of 'wide' hold NaN or +inf" in one.stop_reason
        fine = [index for index in range(len(prompts)) if index not in ended]
        _, tokens = ids([outputs[index] for index in fine])
        assert tokens == expected(broken, [prompts[index] for index in fine], [weights[i] for i in fine], TOKENS)
    assert counted(llm) == before + 2 * len(ended)


def test_what_was_decoded_before_is_kept(llm: Any, broken: Path) -> None:
    """The first token breaks the model that reads it; and a bulk run gets the row's error."""
    asked: dict[str, Any] = {"max_tokens": 4, "min_tokens": 4, "logit_bias": {BROKEN: 1e4}, "logprobs": 1}
    asked["extra_args"] = {"model_logprobs": True}
    drawn = {"temperature": 1.0} if RUNNER_V2 else {"temperature": 1.0, "seed": 3, "top_p": 0.9}
    params = [SamplingParams(**asked, temperature=0.0), SamplingParams(**asked, **drawn), greedy()]
    *failed, fine = llm.generate(PROMPTS[:3], params)
    for output in failed:
        (one,) = output.outputs
        assert one.finish_reason == "error" and list(one.token_ids) == [BROKEN]
        assert "'wide'" in _answer(one)["error"]
    prompts, tokens = ids([fine])
    assert tokens == expected(broken, prompts, WEIGHTS[0], TOKENS)
