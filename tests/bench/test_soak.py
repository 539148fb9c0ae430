"""The soak itself, a short one: it sees growth where there is some, and there is none."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

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


def test_steps_leave_nothing_behind() -> None:
    """In a process of its own, whose memory is its own."""
    call = "from bench.soak import soak; s = soak(500); print(s.steps, s.memory[1], s.memory[-1], s.recaptures, s)"
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", call], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    steps, first, last, recaptures, text = done.stdout.split(maxsplit=4)
    assert int(steps) == 500
    assert int(last) - int(first) < 4 * MEGABYTE
    assert int(recaptures) == 0
    assert "500 steps on cpu" in text
