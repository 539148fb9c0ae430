"""What ends a row: EOS, a stop sequence, its length; kept with the row, in that order of precedence."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from families import left_padded, random_prompts

import genarm
from genarm import GuidedDecoder

PROMPTS = random_prompts([6, 11, 3], seed=1)


@pytest.fixture(scope="module")
def free(decoder: GuidedDecoder) -> list[list[int]]:
    """Rows that nothing but their length ends."""
    return [row.tolist() for row in run(decoder).tokens]


def run(decoder: GuidedDecoder, **options: Any) -> genarm.GenerationOutput:
    return decoder.generate(PROMPTS, **{"max_new_tokens": 10, "seed": 5, "eos_token_id": [], **options})


def test_an_eos_id_ends_its_row_and_is_kept(decoder: GuidedDecoder, free: list[list[int]]) -> None:
    first, second = free[0][3], free[1][6]
    for eos in ([first, second], torch.tensor([first, second]), (second, first)):
        out = run(decoder, eos_token_id=eos)
        for row, whole in zip(out.tokens, free, strict=True):
            hits = [index for index, token in enumerate(whole) if token in (first, second)]
            assert row.tolist() == whole[: hits[0] + 1 if hits else 10]
        assert out.finish_reasons[:2] == ["eos", "eos"]
    only = run(decoder, eos_token_id=first)
    assert only.finish_reasons[0] == "eos" and int(only.tokens[0][-1]) == first


def test_an_empty_list_of_eos_never_stops_and_none_takes_the_models(
    decoder: GuidedDecoder, free: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    config, token = decoder.generation_config, free[0][2]
    for named in (token, [90, token]):
        monkeypatch.setattr(config, "eos_token_id", named)
        assert run(decoder).finish_reasons == ["length"] * 3
        out = run(decoder, eos_token_id=None)
        assert out.finish_reasons[0] == "eos" and int(out.tokens[0][-1]) == token
    monkeypatch.setattr(config, "eos_token_id", None)
    assert run(decoder, eos_token_id=None).finish_reasons == ["length"] * 3


def test_eos_in_the_prompt_does_not_stop(decoder: GuidedDecoder, free: list[list[int]]) -> None:
    token = next(token for token in PROMPTS[0].tolist() if token not in free[0])
    assert run(decoder, eos_token_id=[token]).tokens[0].tolist() == free[0]


def test_a_stop_sequence_ends_its_row_with_its_last_token(decoder: GuidedDecoder, free: list[list[int]]) -> None:
    pair, single = free[0][2:4], free[1][5:6]
    for stop in ([pair, single], (tuple(pair), tuple(single)), [torch.tensor(pair), torch.tensor(single)]):
        out = run(decoder, stop=stop)
        assert out.tokens[0].tolist() == free[0][:4]
        assert out.tokens[1].tolist() == free[1][: free[1].index(single[0]) + 1]
        assert out.finish_reasons[:2] == ["stop", "stop"]


def test_a_stop_sequence_must_be_generated_in_order_and_in_full(decoder: GuidedDecoder, free: list[list[int]]) -> None:
    assert run(decoder, stop=[free[0][2:4][::-1], free[0] + [5]]).finish_reasons[0] == "length"
    across = [int(PROMPTS[0][-1]), free[0][0]]  # half of it is the prompt's
    assert len(run(decoder, stop=[across]).tokens[0]) == 10
    assert run(decoder, stop=[]).finish_reasons == ["length"] * 3


def test_a_token_that_ends_in_two_ways_counts_as_eos_then_stop_then_length(
    decoder: GuidedDecoder, free: list[list[int]]
) -> None:
    token = free[0][0]
    assert run(decoder, eos_token_id=token, stop=[[token]], max_new_tokens=1).finish_reasons[0] == "eos"
    assert run(decoder, stop=[[token]], max_new_tokens=1).finish_reasons[0] == "stop"
    one = run(decoder, max_new_tokens=1)
    assert one.finish_reasons == ["length"] * 3 and one.stats.steps == 1
    assert [row.tolist() for row in one.tokens] == [row[:1] for row in free]


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
    assert list(decoder.stream(PROMPTS, max_new_tokens=0)) == []
