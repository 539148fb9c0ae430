"""Does an AR-RM lose accuracy when its adapter sleeps on the prompt? (docs/activated.md)

python -m experiments.activation --suite persona --data DATA --adapt BASE
python -m experiments.activation --suite persona --data DATA --base BASE --out bench/results/cpu
python -m experiments.activation --table bench/results/cpu
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from experiments.activation.adapting import adapt
from experiments.activation.report import complete, tables
from experiments.activation.runs import SUITES, run
from genarm.embedded import BASE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--base", type=Path, help="the model that both kinds start from; the embedded one if left out")
    parser.add_argument(
        "--adapt", type=Path, help="only train the embedded base on the suite's texts, into this folder"
    )
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", type=Path, help="print the table of the results in this folder")
    options = parser.parse_args()
    if options.table is not None:
        print(tables(complete(options.table)))
        return 0
    if options.suite is None or options.data is None:
        parser.error("give --suite and --data, or --table")
    if options.adapt is not None:
        adapt(options.suite, BASE, options.adapt, options.data)
        return 0
    start = "embedded" if options.base is None else "adapted"
    run(options.suite, start, options.base or BASE, options.data, options.out, options.seeds)
    return 0


if __name__ == "__main__":
    sys.exit(main())
