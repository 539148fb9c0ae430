"""A step's tail on a GPU: replays of one captured launch come to what torch's operations come to on a CPU."""

from __future__ import annotations

import random
from typing import Any

import accept_cases
import pytest
import tail_cases as cases
import torch
from gpu_cases import captured, waiting_for_nothing

import genarm_kernels
from genarm_kernels import Progress

pytestmark = pytest.mark.device


def load(own: tuple[Any, ...], new: tuple[Any, ...]) -> None:
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


@pytest.mark.parametrize(("B", "Q"), [(1, 4), (8, 1), (33, 8)])
def test_replays_of_captured_draws_are_accepted_as_by_torch(B: int, Q: int) -> None:
    chance = random.Random(B)
    stops = cases.aligned(cases.STOPS, 4, 8)
    before = accept_cases.make_texts([[0]] * B, Q, stops, (3,), 4 * Q, seen=True, kept=True)
    texts = cases.on(before, "cuda")
    sample = cases.on(accept_cases.make_draws([[0] * Q] * B, None, True), "cuda")
    drafts, proposed = torch.zeros(B, Q - 1, dtype=torch.int64), torch.zeros(B, dtype=torch.int64)
    on_device = drafts.cuda(), proposed.cuda()
    graph, taken = captured(lambda: genarm_kernels.accept(sample, *on_device, texts))
    load(texts, before)
    for number in range(4):
        draws = [[chance.randrange(cases.V) for _ in range(Q)] for _ in range(B)]
        drawn = accept_cases.make_draws(draws, None, True, number + 1.0)
        load(sample, drawn)
        drafts.copy_(torch.tensor([[token if chance.random() < 0.8 else 0 for token in row[:-1]] for row in draws]))
        proposed.copy_(torch.tensor([chance.randrange(Q) for _ in range(B)]))
        load(on_device, (drafts, proposed))
        with waiting_for_nothing():
            graph.replay()
        assert genarm_kernels.accept(drawn, drafts, proposed, before).tolist() == taken.tolist()
        for name in ("positions", "counts", "tokens", "reasons", "report", "seen"):
            assert torch.equal(getattr(texts, name).cpu(), getattr(before, name)), name
        for name, ends in {"texts": before.positions, **dict.fromkeys(cases.FIGURES, before.counts)}.items():
            found, expected = getattr(texts, name).cpu(), getattr(before, name)
            is_text = torch.arange(found.shape[1]) < ends[:, None]
            assert torch.equal(found[is_text], expected[is_text]), name
