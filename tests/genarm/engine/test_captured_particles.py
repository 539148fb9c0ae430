"""Particles in captured steps, recorded once and replayed: what resampling chose then is not what it chooses next."""

from __future__ import annotations

from typing import Any

import captured_particles as checks
import pytest
import torch
from captured_cases import OPTIONS, PROMPTS
from recorded import capture as recorded_capture
from recorded import kernel_follow_rows, record_on_cpu

from genarm import GenerationOutput, GuidedDecoder

ALWAYS: dict[str, Any] = {"particles": 4, "resample_below": 1.0, "return_particles": True}


def texts(out: GenerationOutput) -> list[list[list[int]]]:
    assert out.particles is not None
    return [[tokens.tolist() for tokens in system.tokens] for system in out.particles]


def test_captured_particles_are_those_of_eager_steps(
    base: Any, rewards: dict[str, Any], eager: GuidedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The second call's rows follow others than those of the first, which was recorded; the third has two chunks.
    again = OPTIONS | ALWAYS | {"seed": 8}
    calls = [(PROMPTS[:2], OPTIONS | ALWAYS), (PROMPTS[2:4], again), (PROMPTS[:4], again)]
    expected = [eager.generate(prompts, **options) for prompts, options in calls]
    unmoved = eager.generate(calls[0][0], **(calls[0][1] | {"resample_below": 0.0}))
    assert texts(unmoved) != texts(expected[0])
    record_on_cpu(monkeypatch)
    decoder = GuidedDecoder(base, rewards, max_batch_size=8, max_length=100)
    for (prompts, options), theirs in zip(calls, expected, strict=True):
        found = decoder.generate(prompts, **options)
        assert texts(found) == texts(theirs)
        torch.testing.assert_close(found.log_evidence, theirs.log_evidence)
    assert decoder.engine.captures


@pytest.mark.parametrize("check", [checks.check_captured_particles, checks.check_captured_normalizers])
def test_what_a_gpu_has_to_do_is_done_where_a_cpu_records(
    check: Any, base: Any, rewards: dict[str, Any], eager: GuidedDecoder, monkeypatch: pytest.MonkeyPatch
) -> None:
    record_on_cpu(monkeypatch)
    check(GuidedDecoder(base, rewards, max_batch_size=16, max_length=100), eager, PROMPTS[:2])


def test_a_recorded_resampling_follows_its_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(checks, "follow_rows", kernel_follow_rows)

    def capture(step: Any) -> tuple[Any, list[torch.Tensor]]:
        kept: list[list[torch.Tensor]] = []
        replay = recorded_capture(lambda: kept.append(step()), None, None)
        return replay, kept[-1]

    checks.check_a_captured_resampling_follows_its_weights(capture, "cpu")
