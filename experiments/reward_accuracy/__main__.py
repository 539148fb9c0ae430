"""Is an AR-RM as good a judge as a trajectory RM, and what does training it cost? One start, the same pairs.

    python -m experiments.reward_accuracy --suite persona --data DATA --out bench/results/cpu
    python -m experiments.reward_accuracy --suite hh_harmless --data DATA --base BASE --out bench/results/cpu
    python -m experiments.reward_accuracy --table bench/results/cpu --picture docs/reward-accuracy.png

BASE for the texts comes from experiments.reward_accuracy.base.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path

from experiments.reward_accuracy.report import complete, draw, tables
from experiments.reward_accuracy.runs import run_suite
from experiments.reward_accuracy.suites import SUITES
from genarm.embedded import BASE


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--suite", choices=SUITES)
    parser.add_argument("--data", type=Path, help="the folder of the data sets")
    parser.add_argument("--base", type=Path, default=BASE, help="the model that both methods start from")
    parser.add_argument("--out", type=Path, default=Path("bench/results/cpu"))
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--changes", type=json.loads, default={}, help="settings to change, as JSON")
    parser.add_argument("--table", type=Path, help="print the tables of the results in this folder")
    parser.add_argument("--picture", type=Path, help="with --table: draw them into this file too")
    options = parser.parse_args()
    if options.table is not None:
        print(tables(complete(options.table)))
        if options.picture is not None:
            draw(complete(options.table), options.picture)
        return 0
    if options.suite is None or options.data is None:
        parser.error("give --suite and --data, or --table")
    run_suite(options.suite, options.data, options.base, options.out, options.seeds, options.changes)
    return 0


if __name__ == "__main__":
    sys.exit(main())
