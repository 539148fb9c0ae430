"""A job, padded with idle rows and in tensors for a captured step, is still the job."""

from __future__ import annotations

from typing import Any

import torch
from families import random_prompts

from genarm.engine.job import WIDTH_MULTIPLE, Job, slot_length
from genarm.engine.state import EOS, GOING_ON
from genarm.request.guidance import Guidance

PROMPTS, OTHERS = random_prompts([4, 2, 7], seed=1), random_prompts([3, 9, 1], seed=2)


def make_job(**settings: Any) -> Job:
    options: dict[str, Any] = {"weights": torch.arange(6.0).view(3, 2), "seeds": torch.arange(3), **settings}
    return Job([PROMPTS, OTHERS], Guidance(**options), max_new_tokens=5, pad_id=0, row_ids=[4, 6, 7])


def test_a_slot_holds_the_longest_prompt_and_every_step() -> None:
    assert make_job().length == slot_length(9, 5) == 15


def test_idle_rows_are_copies_that_have_finished() -> None:
    job = make_job(temperature=torch.tensor([0.5, 1.0, 2.0]), bias=torch.zeros(3, 97)).padded(8)
    assert job.batch == 8 and job.row_ids == [4, 6, 7]
    for prompts, own in zip(job.prompts, (PROMPTS, OTHERS), strict=True):
        assert all(one is other for one, other in zip(prompts, [*own, *[own[0]] * 5], strict=True))
    assert job.guidance.seeds.tolist() == [0, 1, 2, 0, 0, 0, 0, 0]
    assert isinstance(job.guidance.temperature, torch.Tensor) and job.guidance.bias is not None
    assert job.guidance.temperature.tolist() == [0.5, 1.0, 2.0, *[0.5] * 5] and job.guidance.bias.shape == (8, 97)
    assert job.state(97).reasons.tolist() == [GOING_ON] * 3 + [EOS] * 5


def test_what_is_on_becomes_tensors_and_what_is_off_stays_off() -> None:
    guidance = make_job(temperature=0.7, top_k=5, min_p=0.0).captured().guidance
    assert isinstance(guidance.temperature, torch.Tensor) and isinstance(guidance.top_k, torch.Tensor)
    assert guidance.temperature.dtype == torch.float32 and guidance.top_k.dtype == torch.int64
    assert guidance.top_k.tolist() == [5, 5, 5] and (guidance.min_p, guidance.top_p) == (0.0, 1.0)
    assert guidance.repetition_penalty == 1.0


def test_token_buffers_come_in_few_widths() -> None:
    job = make_job()
    assert job.state(97).generated.shape == (3, 5)
    assert job.captured().state(97).generated.shape == (3, WIDTH_MULTIPLE)
    assert job.captured().state(97).shapes() == make_job(temperature=0.1).captured().state(97).shapes()


def test_a_state_outlives_the_mode_it_was_made_in() -> None:
    with torch.inference_mode():
        state = make_job().state(97)
    state.positions += 1
    assert not any(tensor.is_inference() for tensor in (state.tokens, state.generated, state.report, state.reasons))
