"""A request for some rows, padded with idle ones and in tensors for a captured step, is still the request."""

from __future__ import annotations

from typing import Any

import torch
from families import random_prompts

from genarm.engine.graphs import WIDTH_MULTIPLE, padded
from genarm.engine.memory import slot_length, slots_for
from genarm.engine.state import new_state
from genarm.request.guidance import Guidance
from genarm.request.options import Request
from genarm.request.prompts import Prompts, pad_left
from genarm_kernels.step.rules import EOS, GOING_ON

PROMPTS, OTHERS = random_prompts([4, 2, 7], seed=1), random_prompts([3, 9, 1], seed=2)


def make_request(**settings: Any) -> Request:
    options: dict[str, Any] = {"weights": torch.arange(6.0).view(3, 2), "seeds": torch.arange(3), **settings}
    streams = [Prompts(pad_left(rows, 0)[0], rows) for rows in (PROMPTS, OTHERS)]
    return Request(
        streams, [4, 6, 7], {}, Guidance(**options), max_new_tokens=5, pad_id=0, vocab_size=97, prompt_ids=(97, 97)
    )


def test_a_slot_holds_the_longest_prompt_and_every_step() -> None:
    assert slot_length(make_request().longest, 5) == 9 + 5 + 1


def test_captured_slots_come_in_few_sizes_and_never_beyond_the_limit() -> None:
    assert slots_for(3, 9, 5, (8, None)) == (4, 512)
    assert slots_for(1, 500, 12, (8, None)) == (1, 1024) and slots_for(1, 2000, 500, (8, None)) == (1, 4096)
    assert slots_for(5, 500, 12, (8, 512)) == (8, 513), "rounded once: a batch at the limit is the limit's size"
    assert slots_for(1, 10, 12, (8, 100)) == (1, 101)


def test_rows_keep_their_numbers_and_all_that_is_theirs() -> None:
    some = make_request(temperature=torch.tensor([0.5, 1.0, 2.0])).rows([2, 0])
    assert some.batch == 2 and some.row_ids == [7, 4]
    assert [row.tolist() for row in some.streams[1].rows] == [OTHERS[2].tolist(), OTHERS[0].tolist()]
    assert isinstance(some.guidance.temperature, torch.Tensor) and some.guidance.temperature.tolist() == [2.0, 0.5]
    assert some.guidance.weights.tolist() == [[4.0, 5.0], [0.0, 1.0]]


def test_idle_rows_are_copies_that_have_finished() -> None:
    request = padded(make_request(temperature=torch.tensor([0.5, 1.0, 2.0]), bias=torch.zeros(3, 97)), 8)
    assert request.batch == 8 and request.row_ids == [4, 6, 7]
    for stream, own in zip(request.streams, (PROMPTS, OTHERS), strict=True):
        assert all(one is other for one, other in zip(stream.rows, [*own, *[own[0]] * 5], strict=True))
    assert request.guidance.seeds.tolist() == [0, 1, 2, 0, 0, 0, 0, 0]
    assert isinstance(request.guidance.temperature, torch.Tensor) and request.guidance.bias is not None
    assert request.guidance.temperature.tolist() == [0.5, 1.0, 2.0, *[0.5] * 5]
    assert request.guidance.bias.shape == (8, 97)
    assert new_state(request).reasons.tolist() == [GOING_ON] * 3 + [EOS] * 5


def test_what_is_on_becomes_tensors_and_what_is_off_stays_off() -> None:
    guidance = make_request(temperature=0.7, top_k=5, min_p=0.0).guidance.in_tensors()
    assert isinstance(guidance.temperature, torch.Tensor) and isinstance(guidance.top_k, torch.Tensor)
    assert guidance.temperature.dtype == torch.float32 and guidance.top_k.dtype == torch.int64
    assert guidance.top_k.tolist() == [5, 5, 5] and (guidance.min_p, guidance.top_p) == (0.0, 1.0)
    assert guidance.repetition_penalty == 1.0


def test_token_buffers_are_as_wide_as_they_are_asked_to_be() -> None:
    assert new_state(make_request()).generated.shape == (3, 5)
    assert new_state(make_request(), WIDTH_MULTIPLE).generated.shape == (3, WIDTH_MULTIPLE)


def test_a_state_outlives_the_mode_it_was_made_in() -> None:
    with torch.inference_mode():
        state = new_state(make_request())
    state.positions += 1
    assert not any(tensor.is_inference() for tensor in (state.tokens, state.generated, state.report, state.reasons))
