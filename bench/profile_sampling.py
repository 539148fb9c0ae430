"""One implementation at one shape, inside NVTX ranges, for Nsight Compute and Nsight Systems (docs/benchmarks.md).

python -m bench.profile_sampling --B 64 --M 4 --V 128256 --filters top_k+top_p --implementation ours
"""

from __future__ import annotations

import argparse
import sys

import torch

from bench import agreement, measure
from bench.cases import FILTERS
from bench.peers import BUILDERS, make_draw, missing

WARMUP_CALLS = 3


def arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--B", type=int, default=64, help="rows")
    parser.add_argument("--M", type=int, default=4, help="models")
    parser.add_argument("--V", type=int, default=128256, help="ids")
    parser.add_argument("--filters", choices=FILTERS, default="none")
    parser.add_argument("--implementation", choices=BUILDERS, default="ours")
    parser.add_argument("--calls", type=int, default=3, help="calls inside the profiled range")
    return parser.parse_args()


def main(options: argparse.Namespace) -> None:
    if not torch.cuda.is_available():
        sys.exit("profiling needs a CUDA device, and Nsight Compute (ncu) or Nsight Systems (nsys) to run this under")
    device = torch.device("cuda")
    if reason := missing(options.implementation, device):
        sys.exit(f"{options.implementation} cannot be profiled: {reason}")
    size = options.M * options.B * options.V * torch.bfloat16.itemsize
    sets = min(options.calls + 1, measure.rotation(size, device).sets)
    draws = [make_draw(options.B, options.M, options.V, torch.bfloat16, device, index) for index in range(sets)]
    sample = BUILDERS[options.implementation](FILTERS[options.filters], options.B, device)
    with torch.cuda.nvtx.range("warm-up"):
        for _ in range(WARMUP_CALLS):
            tokens = sample(draws[0])
    agreement.check(draws[:1], [tokens], FILTERS[options.filters])
    torch.cuda.synchronize()
    torch.cuda.profiler.start()
    with torch.cuda.nvtx.range("measured"):
        for index in range(options.calls):
            # The warm-up and the check have just read the first set.
            draw = draws[(index + 1) % sets]
            with torch.cuda.nvtx.range(f"call {index}"):
                sample(draw)
        torch.cuda.synchronize()
    torch.cuda.profiler.stop()
    print(f"{options.calls} calls of {options.implementation}, {size} bytes of logits each, on {device}")


if __name__ == "__main__":
    main(arguments())
