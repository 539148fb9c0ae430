"""The soak itself, a short one: it sees growth where there is some, and there is none."""

from __future__ import annotations

import pytest
import torch

from bench import soak

MEGABYTE = 10**6


def test_a_line_through_what_grows_has_its_slope() -> None:
    rounds = range(20)
    steady = [7 * MEGABYTE + index % 2 for index in rounds]
    growing = [7 * MEGABYTE + 300 * soak.ROUND_STEPS * index for index in rounds]
    filled_at_first = [min(index, 3) * MEGABYTE for index in rounds]

    def growth(memory: list[int]) -> float:
        return soak.Soak(torch.device("cpu"), 1.0, memory, [2] * 20).growth

    assert abs(growth(steady)) < 1
    assert growth(growing) == pytest.approx(300)
    assert growth(filled_at_first) == pytest.approx(0, abs=1e-6)


def test_steps_leave_nothing_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    """Short rounds. Were 64 kB of each of their calls kept, memory would grow by more than 17 kB per step."""
    monkeypatch.setattr(soak, "ROUND", (([12], 6), ([5, 3, 7], 4), ([4] * 4, 3), ([20, 6], 2)))
    monkeypatch.setattr(soak, "ROUND_STEPS", 15)
    found = soak.soak(85)
    assert found.steps == 90 and len(found.memory) == 6
    assert found.growth < 10_000
    assert found.recaptures == 0
    assert "90 steps on cpu" in str(found)
