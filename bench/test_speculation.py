"""Decoding with drafts against decoding without, on models that quote (docs/speculation.md).

    python -m pytest bench/test_speculation.py -m "not full"

A case's contenders are measured in turn when the first of them is asked for; each has its own row.
"""

from __future__ import annotations

from typing import Any

import pytest
import torch

from bench import measure
from bench.speculation import DTYPE, GUIDED, PLAIN, WEAK, Case, Contender, measured
from bench.test_decode import spread

CONTENDERS = (
    PLAIN,
    GUIDED,
    Contender("lora", "ngram", 4),
    Contender("lora", "ngram", 7),
    WEAK,
    Contender("weak", "reward", 4),
)
CASES = [
    pytest.param(case, contender, id=f"{case.name}-{contender.name}")
    for case in (Case("copy", "quoting", temperature, CONTENDERS, calls=4, tokens=97) for temperature in (0.0, 0.7))
    for contender in case.contenders
]


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(("case", "contender"), CASES)
def test_speculation(benchmark: Any, case: Case, contender: Contender) -> None:
    found = measured(case)
    seconds = iter(found.seconds(contender))
    benchmark.pedantic(lambda: measure.CLOCK.advance(next(seconds)), rounds=len(found.rounds))
    figures = found.rounds[0][contender]
    benchmark.extra_info.update(
        {
            "contender": contender.name,
            "model": case.model,
            "prompts": case.prompts,
            "T": case.temperature,
            "B": case.batch,
            "calls": case.calls,
            "tokens": case.tokens - 1,
            "dtype": str(DTYPE).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "engine": figures.engine,
            "steps": figures.steps,
            "steps_over_plain": found.steps_over(contender, PLAIN),
            "acceptance": figures.accepted,
            "length": figures.length,
            "distinct": figures.distinct,
            **spread("ratio", found.ratios(contender, PLAIN)),
        }
    )
