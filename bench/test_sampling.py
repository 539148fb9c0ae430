"""guided_sample against what else one could call, at real shapes (docs/benchmarks.md).

    python -m pytest bench/test_sampling.py -m "not full"

Without a GPU it measures the CPU paths at small shapes.
"""

from functools import partial

import pytest
import torch

from bench import measure
from bench.measure import DEVICE, GPU
from bench.sampling import BUILDERS, CPU_GRID, FILTERS, GPU_GRID, Case, check_tokens, make_draw, missing

DTYPE = torch.bfloat16 if GPU else torch.float32
GRID = GPU_GRID if GPU else CPU_GRID
CASES = [pytest.param(case, id=case.name, marks=[] if GRID.fits(case) else [pytest.mark.full]) for case in GRID.cases()]


@pytest.mark.benchmark(timer=measure.CLOCK)
@pytest.mark.parametrize("case", CASES)
def test_sampling(benchmark, case: Case) -> None:
    if reason := missing(case.implementation, DEVICE):
        pytest.skip(f"NOT MEASURED: {reason}")
    torch.manual_seed(0)
    size, filters = case.M * case.B * case.V * DTYPE.itemsize, FILTERS[case.filters]
    draws = [make_draw(case.B, case.M, case.V, DTYPE, DEVICE, index) for index in range(measure.rotation(size).sets)]
    sample = BUILDERS[case.implementation](filters, case.B, DEVICE)
    benchmark.extra_info.update(
        {
            "implementation": case.implementation,
            "filters": case.filters,
            "B": case.B,
            "M": case.M,
            "V": case.V,
            "dtype": str(DTYPE).removeprefix("torch."),
        }
    )
    calls = [partial(sample, draw) for draw in draws]
    measure.time_calls(benchmark, calls, size, lambda tokens: check_tokens(draws, tokens, filters))
