"""A step reads as its parts in a profiler's timeline, and is annotated by nothing without one."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from families import make_model, random_prompts

from genarm import GuidedDecoder
from genarm.engine.run import annotated


def test_a_profile_names_the_parts_of_a_step() -> None:
    decoder = GuidedDecoder(make_model("llama", seed=1), {"r": make_model("gpt2", seed=2)})
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as profile:
        decoder.generate(random_prompts([4]), max_new_tokens=3, eos_token_id=[])
    counts = {event.key: event.count for event in profile.key_averages()}
    wanted = {"prefill": 1, "step": 2, "branch 0": 2, "branch 1": 2, "combine": 3}
    assert {name: counts.get(name) for name in wanted} == wanted


def test_without_a_profiler_there_is_no_range() -> None:
    if not torch.cuda.is_available():
        assert isinstance(annotated("step"), nullcontext)
