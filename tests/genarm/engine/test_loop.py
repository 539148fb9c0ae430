"""The loop reads a step behind where it may: the same results, and at most one step more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest
import torch
from families import make_model, random_prompts
from torch import Tensor

from genarm import GenARMError, GenerationOutput, GuidedDecoder, NumericalError
from genarm.engine.engine import Engine
from genarm.engine.run import Run

PROMPTS = random_prompts([6, 11, 3], seed=1)
OPTIONS: dict[str, Any] = {"max_new_tokens": 14, "seed": 3, "return_logprobs": True, "eos_token_id": list(range(3, 15))}
CALLS: dict[str, dict[str, Any]] = {
    "eos": {},
    "length": {"eos_token_id": []},
    "one token": {"max_new_tokens": 1},
    "two tokens": {"max_new_tokens": 2},
    "none": {"max_new_tokens": 0},
    "stop": {"stop": [[k] for k in range(40, 50)], "eos_token_id": []},
    "at once": {"eos_token_id": list(range(97))},
    "no log-probs": {"return_logprobs": False},
}


@pytest.fixture(scope="module")
def decoder() -> GuidedDecoder:
    return GuidedDecoder(make_model("llama", seed=1), {"r": make_model("llama", seed=2, hidden=16)}, max_batch_size=2)


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """The steps that were launched, 0 the prefill."""
    steps: list[int] = []
    own = Run.launch

    def launch(run: Run, step: int) -> Tensor:
        steps.append(step)
        return own(run, step)

    monkeypatch.setattr(Run, "launch", launch)
    return steps


def behind(monkeypatch: pytest.MonkeyPatch, lag: int) -> None:
    monkeypatch.setattr(Engine, "lag", lambda *_: lag)


def assert_same(found: GenerationOutput, expected: GenerationOutput) -> None:
    assert torch.equal(found.sequences, expected.sequences)
    assert found.finish_reasons == expected.finish_reasons
    assert [str(error) for error in found.errors.values()] == [str(error) for error in expected.errors.values()]
    for ours, theirs in (found.logprobs, expected.logprobs), (found.model_logprobs, expected.model_logprobs):
        assert (ours is None) == (theirs is None)
        if ours is not None and theirs is not None:
            assert torch.equal(ours.nan_to_num(7), theirs.nan_to_num(7))


@pytest.mark.parametrize("options", CALLS.values(), ids=CALLS.keys())
def test_a_lag_changes_no_result(
    options: dict[str, Any], decoder: GuidedDecoder, launched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    for prompts in (PROMPTS[:2], PROMPTS):  # as many as there is room for, and one that takes another's place
        behind(monkeypatch, 0)
        launched.clear()
        expected = decoder.generate(prompts, **OPTIONS | options)
        steps = len(launched)
        assert steps == expected.stats.steps
        launched.clear()
        behind(monkeypatch, 1)
        found = decoder.generate(prompts, **OPTIONS | options)
        assert_same(found, expected)
        most = (OPTIONS | options)["max_new_tokens"]
        if len(prompts) == 2:  # one more, unless the length ended it
            assert len(launched) == min(steps + 1, most) and found.stats.steps == steps
        else:  # and one before each row's end is known
            assert min(steps + 1, most) <= len(launched) <= steps + len(prompts) * bool(most)


def test_a_stream_lags_but_says_the_same(
    decoder: GuidedDecoder, launched: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    behind(monkeypatch, 0)
    expected = [(step.tokens, step.finished) for step in decoder.stream(PROMPTS[:2], **OPTIONS)]
    behind(monkeypatch, 1)
    launched.clear()
    found = []
    for step in decoder.stream(PROMPTS[:2], **OPTIONS):
        found.append((step.tokens, step.finished))
        assert len(launched) - len(found) <= 1
    assert [[row.tolist() for row in tokens] for tokens, _ in found] == [
        [row.tolist() for row in tokens] for tokens, _ in expected
    ]
    assert [finished.tolist() for _, finished in found] == [finished.tolist() for _, finished in expected]


@pytest.mark.parametrize("lag", [0, 1])
def test_a_row_that_fails_late_costs_the_others_nothing(lag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", seed=1)
    sound = GuidedDecoder(model).generate(PROMPTS[:2], **OPTIONS | {"eos_token_id": []})
    row, step = next((row, step) for step in range(3, 9) for row in (0, 1) if _is_new(sound, row, step))
    token = int(sound.tokens[row][step])
    with torch.no_grad():
        model.model.embed_tokens.weight[token] = torch.nan
    behind(monkeypatch, lag)
    found = GuidedDecoder(model).generate(PROMPTS[:2], **OPTIONS | {"eos_token_id": []})
    assert isinstance(found.errors[row], NumericalError)
    assert f"row {row}, new token {step + 1}:" in str(found.errors[row])
    assert found.tokens[row].tolist() == sound.tokens[row][: step + 1].tolist()
    assert found.finish_reasons[row] == "error"
    other = 1 - row
    if other not in found.errors:
        assert torch.equal(found.tokens[other], sound.tokens[other])
    assert found.logprobs is not None
    assert bool(found.logprobs[row, step + 1 :].isnan().all())


def _is_new(output: GenerationOutput, row: int, step: int) -> bool:
    """Whether the row's token at a step is nowhere else, so that without it only this row fails."""
    token = int(output.tokens[row][step])
    others = [*PROMPTS[0].tolist(), *PROMPTS[1].tolist(), *output.tokens[1 - row].tolist()]
    return token not in others and token not in output.tokens[row][:step].tolist()


@pytest.mark.parametrize("lag", [0, 1])
def test_when_every_row_fails_the_call_does(lag: int, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model("llama", seed=1)
    with torch.no_grad():
        model.lm_head.weight.fill_(torch.nan)
    behind(monkeypatch, lag)
    decoder = GuidedDecoder(model, max_batch_size=2)
    with pytest.raises(GenARMError, match="row 0, new token 0") as caught:
        decoder.generate(PROMPTS, **OPTIONS)
    assert sorted(caught.value.rows) == [0, 1, 2]


def test_the_callers_code_is_never_a_step_behind(decoder: GuidedDecoder, launched: list[int]) -> None:
    """With criteria no step is launched that they would have stopped."""
    request = decoder.prepare(PROMPTS[:2], **OPTIONS | {"eos_token_id": []})
    assert decoder.engine.lag(replace(request, halt=lambda ids: ids[:, -1] > 0)) == 0
    output = decoder.run(replace(request, halt=lambda ids: torch.full((2,), ids.shape[1] == 4)))
    assert output.stats.steps == len(launched) == 4
    assert output.finish_reasons == ["stop", "stop"]


def test_seconds_are_prefill_and_decoding(decoder: GuidedDecoder) -> None:
    stats = decoder.generate(PROMPTS[:2], **OPTIONS | {"eos_token_id": []}).stats
    assert stats.prefill_seconds > 0 and stats.decode_seconds > 0 and stats.steps == 14
    assert stats.new_tokens == 28 and stats.engine == "fused"
