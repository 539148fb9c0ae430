"""Guided decoding against plain decoding and against what else one could write (docs/benchmarks.md, "Decoding").

    python -m pytest bench/test_decode.py -m "not full"

A case's contenders are measured in turn when the first of them is asked for. Each has its own row, whose ratios are the
medians of the rounds' ratios. Without a GPU it measures a small model and tiny shapes.
"""

from __future__ import annotations

import statistics
from typing import Any

import pytest
import torch

from bench import measure
from bench.decode import measured, missing
from bench.decode_cases import OURS, PLAIN, Case, Contender, cpu_cases, gpu_cases
from bench.measure import GPU
from bench.step_counts import Launches

DTYPE = torch.bfloat16
CASES = [
    pytest.param(
        case,
        contender,
        id=f"{case.name}-{contender.name}",
        marks=[pytest.mark.full] if case.full else [],
    )
    for case in (gpu_cases() if GPU else cpu_cases())
    for contender in case.contenders
]


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(("case", "contender"), CASES)
def test_decode(benchmark: Any, case: Case, contender: Contender) -> None:
    if reason := missing(contender):
        pytest.skip(f"NOT MEASURED: {reason}")
    bandwidth = measure.copy_bandwidth()
    found = measured(case, DTYPE)
    if contender in found.too_large:
        pytest.skip("NOT MEASURED: out of memory")
    assert contender not in found.failed, found.failed[contender]
    steps = iter(found.step_seconds(contender))
    benchmark.pedantic(lambda: measure.CLOCK.advance(next(steps)), rounds=len(found.rounds))
    seconds, floor = benchmark.stats.stats.median, found.floors[contender].total
    own = found.ratios(contender, Contender(OURS, contender.K)) if contender.way != OURS else None
    benchmark.extra_info.update(
        {
            "contender": contender.way,
            "K": contender.K,
            "model": case.model,
            "rewards": case.rewards,
            "part": case.part,
            "B": case.batch,
            "context": case.context,
            "dtype": str(DTYPE).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "engine": found.engines.get(contender, "transformers"),
            "steps": case.tokens - 1,
            "tokens/s": case.batch / seconds,
            "bytes": floor,
            "GB/s": floor / seconds / 1e9,
            "share_of_copy": floor / seconds / bandwidth,
            "copy_GB/s": bandwidth / 1e9,
            **spread("ratio", found.ratios(contender, PLAIN)),
            **spread("over_ours", own),
            "host_gap": found.host_gap(contender),
            **launched(found.launches.get(contender)),
            "cache_MB": found.caches[contender] / 1e6 if contender in found.caches else None,
            "first_ms": found.first_seconds(contender) * 1e3,
            "first_ratio": found.first_ratio(contender),
            "prompts_read": found.prompts_read(contender),
        }
    )


def launched(found: Launches | None) -> dict[str, float | str | None]:
    """Launches per step, who counted them, and how many there should be."""
    if found is None:
        return {"launches": None}
    return {"launches": found.counted, "launches_by": found.by, "launches_expected": found.expected}


def spread(name: str, values: list[float] | None) -> dict[str, float | None]:
    """Median and quartiles of the rounds' ratios."""
    if values is None:
        return {name: None}
    low, middle, high = statistics.quantiles(values, n=4, method="inclusive")
    return {name: middle, f"{name}_low": low, f"{name}_high": high}
