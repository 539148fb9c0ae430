"""Ten thousand decoding steps in one process: what memory they leave taken, and whether a step was captured again.

    python -m pytest bench/test_soak.py
    python -m bench.soak --steps 10000 --device cuda     # the same by hand

On a CPU, where a step takes longer, two thousand.
"""

import pytest
import torch

from bench import measure
from bench.soak import soak

DEVICE, STEPS = ("cuda", 10_000) if torch.cuda.is_available() else ("cpu", 2_000)


@pytest.mark.benchmark(timer=measure.CLOCK)
def test_soak(benchmark) -> None:
    found = soak(STEPS, device=DEVICE)
    benchmark.pedantic(lambda: measure.CLOCK.advance(found.seconds / found.steps), rounds=1)
    benchmark.extra_info.update(
        {
            "soaked_steps": found.steps,
            "growth": found.growth,
            "memory_MB": found.memory[-1] / 1e6,
            "captures": found.captures[0],
            "recaptures": found.recaptures,
        }
    )
