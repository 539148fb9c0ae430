"""token_logprobs beside all logits in torch and Liger's fused linear cross-entropy: time and peak memory by N and V.

    python -m pytest bench/test_logprobs.py -m "not full"

The ways of a case are checked against plain torch on a share of the rows when the first of them is asked for, then
called in turn, round by round; a ratio is the median of the rounds' own. `floor_us` is the time of the products that
the mode cannot do without. Without a GPU it measures small shapes.
"""

from __future__ import annotations

import gc
import statistics
from functools import lru_cache, partial
from typing import Any

import pytest
import torch
from torch import Tensor

from bench import measure
from bench.logprobs import BUILDERS, PRODUCTS, Case, Op, cpu_cases, gpu_cases, missing, plain, run
from bench.measure import DEVICE, GPU
from genarm.cli.bench import rotate

ROUNDS, WARMUP_ROUNDS = (9, 2) if GPU else (5, 1)
CHECKED = 64
CASES = [
    pytest.param(case, way, id=f"{case.name}-{way}", marks=[pytest.mark.full] if case.full else [])
    for case in (gpu_cases() if GPU else cpu_cases())
    for way in case.ways
]


class Measured:
    """A case's inputs, and what each way came to."""

    def __init__(self, case: Case) -> None:
        torch.manual_seed(0)
        self.case = case
        self.hidden = torch.randn(case.N, case.H, device=DEVICE, dtype=case.dtype)
        self.lm_head = torch.randn(case.V, case.H, device=DEVICE, dtype=case.dtype) / case.H**0.5
        self.token_ids = torch.randint(case.V, (case.N,), device=DEVICE)
        self.grads = torch.ones(case.N, device=DEVICE)
        self.product_rows = min(case.N, 4096 if GPU else max(16, 2**22 // case.V))
        self.logits = self.hidden.new_empty(self.product_rows, case.V)
        self.seconds: dict[str, list[float]] = {}
        self.peaks: dict[str, int] = {}
        self.failed: dict[str, str] = {}

    def call(self, op: Op) -> list[Tensor]:
        return run(op, self.hidden, self.lm_head, self.token_ids, self.case.mode, self.grads)

    def product(self) -> Tensor:
        """Logits of as many rows as are fast to take at a time, into memory at hand: the floor's unit."""
        return torch.mm(self.hidden[: self.product_rows], self.lm_head.T, out=self.logits)

    def check(self, op: Op) -> None:
        rows = slice(0, CHECKED)
        hidden, ids = self.hidden[rows], self.token_ids[rows]
        mode = "forward" if self.case.mode == "forward" else "frozen"
        found, expected = (run(way, hidden, self.lm_head, ids, mode, self.grads[rows]) for way in (op, plain))
        if found[0].ndim == 0:
            expected[0] = expected[0].sum()
        for value, right in zip(found, expected, strict=True):
            assert float((value - right).abs().max()) <= 2e-2 * float(right.abs().max())


@lru_cache(maxsize=1)
def measured(case: Case) -> Measured:
    """Check every way, take its peak, then time all of them in turn. The last case's result is kept."""
    gc.collect()
    found = Measured(case)
    ready = {}
    for way in case.ways:
        if missing(way, DEVICE) is not None:
            continue
        try:
            op = BUILDERS[way]()
            found.check(op)
            found.call(op)
            found.peaks[way] = measure.peak_bytes(lambda op=op: found.call(op), DEVICE)
            ready[way] = op
        except Exception as error:  # one peer's failure is not the others'
            found.failed[way] = f"{type(error).__name__}: {error}"
    calls = {way: partial(found.call, op) for way, op in ready.items()} | {"product": found.product}
    timed = {way: partial(measure.seconds_of, call) for way, call in calls.items()}
    rounds = rotate(timed, WARMUP_ROUNDS + ROUNDS)[WARMUP_ROUNDS:]
    found.seconds = {way: [seconds[way] for seconds in rounds] for way in calls}
    return found


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize(("case", "way"), CASES)
def test_logprobs(benchmark: Any, case: Case, way: str) -> None:
    if reason := missing(way, DEVICE):
        pytest.skip(f"NOT MEASURED: {reason}")
    found = measured(case)
    if "OutOfMemoryError" in found.failed.get(way, ""):
        pytest.skip("NOT MEASURED: out of memory")
    assert way not in found.failed, found.failed[way]
    rounds = iter(found.seconds[way])
    benchmark.pedantic(lambda: measure.CLOCK.advance(next(rounds)), rounds=ROUNDS)
    product = statistics.median(found.seconds["product"]) * case.N / found.product_rows
    floor = PRODUCTS[case.mode] * product
    benchmark.extra_info.update(
        {
            "way": way,
            "mode": case.mode,
            "N": case.N,
            "H": case.H,
            "V": case.V,
            "dtype": str(case.dtype).removeprefix("torch."),
            "threads": torch.get_num_threads(),
            "peak_MB": found.peaks[way] / 1e6,
            "floor_us": floor * 1e6,
            "share_of_floor": floor / benchmark.stats.stats.median,
            **{f"over_{other}": over(found, way, other) for other in ("plain", "liger", "liger-sum")},
        }
    )


def over(found: Measured, way: str, other: str) -> float | None:
    """A way's time over another's: the median of the rounds' ratios."""
    if other not in found.seconds:
        return None
    return statistics.median(a / b for a, b in zip(found.seconds[way], found.seconds[other], strict=True))
