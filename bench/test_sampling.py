"""guided_sample against what else one could call, at real shapes (docs/benchmarks.md).

    python -m pytest bench/test_sampling.py -m "not full"

Without a GPU it measures the CPU paths at small shapes.
"""

import pytest
import torch

from bench import agreement, measure
from bench.cases import CPU_GRID, FILTERS, GPU_GRID, Case
from bench.peers import BUILDERS, make_draw, missing

GPU = torch.cuda.is_available()
DEVICE = torch.device("cuda" if GPU else "cpu")
DTYPE = torch.bfloat16 if GPU else torch.float32
GRID = GPU_GRID if GPU else CPU_GRID
CASES = [pytest.param(case, id=case.name, marks=[] if GRID.fits(case) else [pytest.mark.full]) for case in GRID.cases()]


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize("case", CASES)
def test_sampling(benchmark, case: Case) -> None:
    if reason := missing(case.implementation, DEVICE):
        pytest.skip(f"NOT MEASURED: {reason}")
    torch.manual_seed(0)
    bandwidth = measure.copy_bandwidth(DEVICE)
    size = case.M * case.B * case.V * DTYPE.itemsize
    plan = measure.rotation(size, DEVICE)
    draws = [make_draw(case.B, case.M, case.V, DTYPE, DEVICE, index) for index in range(plan.sets)]
    sample = BUILDERS[case.implementation](FILTERS[case.filters], case.B, DEVICE)
    calls = [lambda draw=draws[index % plan.sets]: sample(draw) for index in range(plan.calls)]
    run, mode = measure.as_round(calls, DEVICE)
    agreement.check(draws, run()[: plan.sets], FILTERS[case.filters])
    seconds = measure.in_rounds(benchmark, run, plan.calls, DEVICE)
    benchmark.extra_info.update(
        {
            "implementation": case.implementation,
            "filters": case.filters,
            "B": case.B,
            "M": case.M,
            "V": case.V,
            "dtype": str(DTYPE).removeprefix("torch."),
            "mode": mode,
            "calls": plan.calls,
            "sets": plan.sets,
            "bytes": size,
            "GB/s": size / seconds / 1e9,
            "share_of_copy": size / seconds / bandwidth,
            "copy_GB/s": bandwidth / 1e9,
        }
    )
