"""The decoding suite: every contender decodes the same thing, bytes are counted right, the grid holds what it must."""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import pytest
import torch

from bench import decode, tables, targets
from bench.decode import build, covered, measured
from bench.decode_cases import (
    COMPILED,
    HAND_MADE,
    OF_ONE_PROMPT,
    PLAIN,
    Case,
    Contender,
    cpu_cases,
    gpu_cases,
    long_cases,
    ours,
    particle_case,
)
from bench.decode_models import (
    MODELS,
    Family,
    cache_bytes,
    config,
    family,
    random_model,
    shapes_only,
    step_bytes,
    weight_bytes,
)
from bench.decode_peers import Ours
from bench.page import stale
from genarm.models.fused import session

CPU = torch.device("cpu")
CASE = Case("tiny", "lora", 2, 12, (*ours(0, 1, 2), *HAND_MADE, *COMPILED), rounds=2, tokens=6)


@pytest.fixture(scope="module")
def models() -> Family:
    """Of one layer: compiled contenders are traced layer by layer, for longer than they decode."""
    shape = config("tiny")
    shape.num_hidden_layers = 1
    torch.manual_seed(0)
    return Family("tiny", random_model(shape, torch.float32, CPU))


def test_every_contender_decodes_the_same_tokens_and_times_lie_within_its_call(
    monkeypatch: pytest.MonkeyPatch, models: Family
) -> None:
    monkeypatch.setattr(decode, "missing", lambda contender: None)
    different = torch.randint(3, 512, (2, 12), generator=torch.Generator().manual_seed(0))
    decoders = build(models, CASE, backend="eager")
    for prompts in (different[:1].expand(2, -1).contiguous(), different):
        found: dict[int, list[torch.Tensor]] = {}
        for contender, call in decoders.items():
            for _ in range(2):  # the second call on what the first one left behind
                started = time.perf_counter()
                timing = call(prompts, 6, greedy=True)
                assert timing.first > 0 and timing.decode > 0
                assert timing.first + timing.decode <= time.perf_counter() - started, contender.name
            assert timing.sequences.shape == (2, 18)
            found.setdefault(contender.K, []).append(timing.sequences)
        assert [len(found[K]) for K in (0, 1, 2)] == [3, 5, 2]
        assert all(torch.equal(sequences[0], other) for sequences in found.values() for other in sequences)
        assert not torch.equal(found[0][0], found[1][0])


def test_what_is_of_one_prompt_decodes_it_in_as_many_rows_and_reads_it_once(models: Family) -> None:
    case = replace(particle_case("tiny", 1, 12, 1), tokens=6)
    prompts = torch.randint(3, 512, (8, 12), generator=torch.Generator().manual_seed(3))
    calls = {contender.way: decode for contender, decode in build(models, case).items()}
    assert list(calls) == ["ours", *OF_ONE_PROMPT]
    expected, answers = (calls[way](prompts, 6, greedy=True).sequences for way in ("ours", "answers"))
    assert torch.equal(expected[:, :12], prompts) and torch.equal(answers, expected[:1].expand(8, -1))
    found = {way: call(prompts, 6) for way, call in calls.items()}
    new = 8 * 5
    assert [timing.forwarded for timing in found.values()] == [8 * 12 + new, *[12 + new] * 3]
    for way in ("particles", "particles-each"):  # one answer is drawn of eight
        assert found[way].sequences.shape == (1, 18) and torch.equal(found[way].sequences[:, :12], prompts[:1])


def test_reward_models_asleep_on_the_prompt_hold_it_once(models: Family) -> None:
    """The caches of 16 answers of one prompt, in tokens: a row has 12 of the prompt, 6 new ones and one in advance."""
    (case,) = [one for one in long_cases("tiny", (), 12, 1) if one.part == "one-prompt"]
    prompts = torch.arange(3, 15)[None].repeat(16, 1)
    calls = build(models, replace(case, tokens=6))
    token = 2 * 1 * 2 * 16 * 4  # of one layer in float32
    sizes = {
        contender.name: call.cache_bytes(prompts, 6) // token
        for contender, call in calls.items()
        if isinstance(call, Ours)
    }
    assert sizes == {"ours-K0": 16 * 19, "ours-K1": 32 * 19, "activated-K1": 11 + 32 * 8}


def test_particles_of_random_models_copy_caches(monkeypatch: pytest.MonkeyPatch, models: Family) -> None:
    copied: list[int] = []
    own = session.follow_rows

    def follow_rows(cache: torch.Tensor, origins: torch.Tensor, *places: torch.Tensor) -> None:
        copied.append(int((origins != torch.arange(len(origins))).sum()))
        own(cache, origins, *places)

    monkeypatch.setattr(session, "follow_rows", follow_rows)
    case = particle_case("tiny", 1, 12, 1)
    # Logits of a sixteenth of the width are a quarter as wide.
    for contender, call in build(models, replace(case, temperature=case.temperature / 4)).items():
        call(torch.arange(3, 15)[None].repeat(8, 1), 12)
        assert bool(copied) == contender.way.startswith("particles"), contender
        copied.clear()


def test_separate_reward_models_decode_as_adapters_do(models: Family) -> None:
    prompts = torch.arange(3, 15)[None]
    drawn = []
    for rewards in ("lora", "separate"):
        decoders = build(models, replace(CASE, rewards=rewards, batch=1, contenders=ours(2)))
        drawn.append(decoders[ours(2)[0]](prompts, 6, greedy=True).sequences)
    assert torch.equal(*drawn)


def test_models_have_the_sizes_and_the_byte_floor_of_the_real_ones() -> None:
    for name, billions in zip(MODELS, (8.03, 6.74, 1.236, 0.596), strict=True):
        numbers = sum(parameter.numel() for parameter in shapes_only(name, 0).base.parameters())
        assert numbers / 1e9 == pytest.approx(billions, rel=3e-3), name
    base = shapes_only("Llama-3.1-8B", 0).base
    assert weight_bytes(base) == pytest.approx(15.0e9, rel=2e-3)  # 16.06 GB, 1.05 GB of it the embedding
    assert cache_bytes(base.config, 2) == 131072
    rows = [line.strip("| ").split(" | ") for line in tables.floors().splitlines() if "| Llama-3.1-8B" in line]
    floors = {(row[1], row[2]): [float(value) for value in row[4:]] for row in rows}
    assert floors["1", "1,024"] == [1.014, 1.029, 1.043]
    assert floors["1", "3,072"] == [1.032, 1.063, 1.095]


def test_the_page_has_the_floors_of_prompts_held_once() -> None:
    """At K = 3 on 16,384 tokens: what ordinary reward models cost, activated ones, and 16 answers with copies."""
    made = tables.held_once()
    assert stale(Path(__file__).parents[2] / "docs/activated.md", {"floors": made}) == []
    steps = {tuple(row.strip("| ").split(" | ")[:3]): row.strip("| ").split(" | ")[6:] for row in made.splitlines()}
    assert steps["1", "16,384", "3"] == ["1.393", "1.393", "1.018"]
    assert steps["16", "16,384", "3"] == ["8.823", "1.431", "1.061"]


def test_the_byte_floor_adds_up() -> None:
    models = family("tiny", torch.bfloat16, CPU)
    layer = 64 * 64 + 2 * 32 * 64 + 64 * 64 + 3 * 64 * 128 + 2 * 64
    weights = 2 * (2 * layer + 64 + 512 * 64)
    lora = step_bytes(models, 3, False, 4, 100.5)
    assert lora.weights == weights and lora.logits == 4 * 4 * 512 * 2
    assert lora.cache == 4 * 4 * 100.5 * (2 * 2 * 2 * 16 * 2)
    rank = 2 * 16 * (4 * 64 + 2 * 32 + 2 * 64 + 2 * 64 + 128 + 2 * 128 + 64)
    assert lora.adapters == 3 * 2 * rank
    separate = step_bytes(models, 3, True, 4, 100.5)
    assert separate.weights == 4 * weights and separate.adapters == 0
    assert separate.total == separate.weights + lora.cache + lora.logits


def test_the_part_of_a_step_that_is_covered() -> None:
    intervals = [(4.0, 5.0), (0.0, 2.0), (1.0, 3.0), (1.5, 2.5), (5.0, 6.0)]
    assert covered(intervals) == 5.0 and covered(intervals, since=2.0) == 3.0 and covered([]) == 0.0


def test_one_contender_that_fails_costs_the_others_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    faults = {
        Contender("loop", 1): Mock(side_effect=RuntimeError("broken")),
        Contender("loop", 2): Mock(side_effect=torch.OutOfMemoryError("large")),
    }
    monkeypatch.setattr(decode, "build", lambda models, case: build(models, case) | faults)
    found = measured(replace(CASE, rounds=3), torch.float32)
    assert "broken" in found.failed[Contender("loop", 1)] and found.too_large == {Contender("loop", 2)}
    assert len(found.rounds) == 3 and Contender("hf", 0) in found.rounds[0]
    assert found.ratios(PLAIN, PLAIN) == [1.0] * 3 and found.ratios(PLAIN, Contender("loop", 1)) is None
    assert found.host_gap(PLAIN) is None


@pytest.mark.parametrize(
    ("cases", "wanted", "full"),
    [(cpu_cases(), targets.DECODE_ON_CPU, 9), (gpu_cases(), targets.DECODE_ON_GPU, len(MODELS) * 2 * 4 * 3)],
    ids=["CPU", "GPU"],
)
def test_every_target_is_measured_by_default_and_the_full_grid_is_whole(
    cases: list[Case], wanted: list[targets.Target], full: int
) -> None:
    names = [f"{case.name} {contender.name}" for case in cases for contender in case.contenders]
    assert len(names) == len(set(names))
    measured = {
        (case.model, case.rewards, case.batch, case.context, case.part, contender.way, contender.K)
        for case in cases
        for contender in case.contenders
        if not case.full
    }
    assert all((*target.shape, target.contender, target.K) in measured for target in wanted)
    beyond = [case for case in cases if case.full and case.part in ("", "full")]
    assert len(beyond) == full and all({PLAIN, *ours(1, 2, 3)} <= set(case.contenders) for case in beyond)
