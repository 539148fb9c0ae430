"""A step's tail on a GPU: replays of one captured launch come to what torch's operations come to on a CPU."""

from __future__ import annotations

import random

import pytest
import tail_cases as cases
from gpu_cases import captured, waiting_for_nothing

import genarm_kernels
from genarm_kernels import GuidedSample, Progress

pytestmark = pytest.mark.device


def load(own: Progress | GuidedSample, new: Progress | GuidedSample) -> None:
    for one, other in zip(own, new, strict=True):
        if one is not None and other is not None:
            one.copy_(other)


@pytest.mark.parametrize("B", [1, 8, 33, 64])
def test_replays_of_a_captured_tail_are_torch_s(B: int) -> None:
    chance = random.Random(B)
    before = cases.make_progress(B, cases.aligned(cases.STOPS, 4, 8), (3,), seen=True, kept=True)
    progress, sample = cases.on(before, "cuda"), cases.on(cases.make_sample([0] * B, None, True), "cuda")
    graph, _ = captured(lambda: genarm_kernels.advance(sample, progress, cases.PAD, True))
    load(progress, before)
    for step in range(cases.N):
        tokens = [chance.randrange(cases.V) for _ in range(B)]
        status = [int(chance.random() < 0.1) for _ in range(B)]
        drawn = cases.make_sample(tokens, status, True, step + 1.0)
        load(sample, drawn)
        with waiting_for_nothing():
            graph.replay()
        genarm_kernels.advance(drawn, before, cases.PAD, True)
        for name, found, expected in zip(Progress._fields, progress, before, strict=True):
            assert found is not None and expected is not None and cases.same(found.cpu(), expected), name
    assert progress.step.tolist() == [cases.N] and progress.arrived.tolist() == [0]
