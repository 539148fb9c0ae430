"""What every suite needs: the marker `full`, memory given back, and rows that survive whatever happens later.

A suite's rows are written one by one to the file that BENCH_ROWS names, so a run that is killed leaves those it had.
"""

from __future__ import annotations

import gc
import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "full: beyond the time of bench/device.sh; left out by -m 'not full'")


@pytest.fixture(autouse=True)
def row(request: pytest.FixtureRequest) -> Iterator[None]:
    """Give memory back after a benchmark and write its row."""
    benchmark = request.getfixturevalue("benchmark") if "benchmark" in request.fixturenames else None
    yield
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    if benchmark is None or benchmark.stats is None or benchmark.has_error:
        return
    if "BENCH_ROWS" in os.environ:
        _append(request.node.name, benchmark)
    # Going through every loaded module again takes longer than most benchmarks.
    gc.freeze()


def _append(name: str, benchmark: Any) -> None:
    stats = benchmark.stats.stats
    entry = {
        "name": name,
        "median_us": stats.median * 1e6,
        "iqr_us": stats.iqr * 1e6,
        "rounds": stats.rounds,
        "notes": benchmark.extra_info,
    }
    with Path(os.environ["BENCH_ROWS"]).open("a") as rows:
        rows.write(json.dumps(entry) + "\n")
