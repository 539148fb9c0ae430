"""Captured steps on a GPU in torch's deterministic mode, after a capture that failed, and across CUDA streams."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from families import make_model, random_prompts

from genarm import GuidedDecoder
from genarm.engine import graphs

pytestmark = pytest.mark.device
OPTIONS: dict[str, Any] = {"max_new_tokens": 12, "seed": 3, "eos_token_id": []}
PROMPTS = random_prompts([6, 11, 3], seed=1)


@pytest.fixture
def decoder() -> GuidedDecoder:
    rewards = {"r": make_model("qwen3", seed=2, hidden=64).to("cuda")}
    return GuidedDecoder(make_model("llama", seed=1).to("cuda"), rewards)


@pytest.fixture
def deterministic(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
    torch.use_deterministic_algorithms(True)
    yield
    torch.use_deterministic_algorithms(False)


@pytest.mark.usefixtures("deterministic")
def test_steps_are_captured_in_deterministic_mode(decoder: GuidedDecoder) -> None:
    outputs = [decoder.generate(PROMPTS, **OPTIONS, repetition_penalty=1.1) for _ in range(2)]
    assert torch.equal(outputs[0].sequences, outputs[1].sequences)
    assert decoder.engine.captures == 1


def test_a_capture_that_fails_leaves_the_device_fit_for_the_next(
    decoder: GuidedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = decoder.generate(PROMPTS, **OPTIONS)
    decoder.release()
    with monkeypatch.context() as patch:
        own = graphs.CapturedRun.decode

        def decode(run: graphs.CapturedRun) -> None:
            own(run)
            if torch.cuda.is_current_stream_capturing():
                run.state.tokens.tolist()  # a wait, which no capture allows

        patch.setattr(graphs.CapturedRun, "decode", decode)
        with pytest.warns(UserWarning, match="could not be captured"):
            assert torch.equal(decoder.generate(PROMPTS, **OPTIONS).sequences, expected.sequences)
    decoder.release()
    found = decoder.generate(PROMPTS, **OPTIONS)
    assert torch.equal(found.sequences, expected.sequences) and found.stats.engine == "fused (CUDA graphs)"


@pytest.mark.parametrize("is_captured", [True, False])
def test_a_stream_of_steps_may_be_resumed_on_another_cuda_stream(decoder: GuidedDecoder, is_captured: bool) -> None:
    decoder.engine.graphs = is_captured
    expected = decoder.generate(PROMPTS, **OPTIONS)
    found: list[list[int]] = [[] for _ in PROMPTS]
    others = [torch.cuda.Stream() for _ in range(2)]
    steps = decoder.stream(PROMPTS, **OPTIONS)
    for turn in range(OPTIONS["max_new_tokens"]):
        with torch.cuda.stream(others[turn % 2]):
            for row, tokens in enumerate(next(steps).tokens):
                found[row] += tokens.tolist()
    assert found == [row.tolist() for row in expected.tokens]
