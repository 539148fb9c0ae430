"""Every method against the optimal policy, on problems that are small enough to be known whole.

    python -m experiments.ground_truth --out docs/ground-truth.json --picture docs/ground-truth.png
    python -m experiments.ground_truth --table docs/ground-truth.json

Minutes on one core. The tables of docs/ground-truth.md are printed.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from experiments.ground_truth import decoding, drawing, existence, learning
from experiments.ground_truth.report import draw, tables

PARTS: dict[str, Callable[[int], list[dict[str, Any]]]] = {
    "existence": existence.measure,
    "learning": lambda seed: list(learning.measure(seed)),
    "decoding": lambda seed: [decoding.measure(one) for one in decoding.problems([seed])],
    "drawing": drawing.measure,
}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="measure, and write all figures into this file")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--table", type=Path, help="measure nothing: print the tables of this file")
    parser.add_argument("--picture", type=Path, help="draw the figures into this file too")
    options = parser.parse_args()
    if (options.out is None) == (options.table is None):
        parser.error("give --out, or --table")
    if options.table is not None:
        result = json.loads(options.table.read_text(encoding="utf-8"))
    else:
        result = measure(options.seeds)
        options.out.write_text(as_json(result), encoding="utf-8")
    print(tables(result))
    if options.picture is not None:
        draw(result, options.picture)
    return 0


def measure(seeds: list[int]) -> dict[str, Any]:
    """All parts under all seeds, on one thread."""
    torch.set_num_threads(1)
    result: dict[str, Any] = {"torch": torch.__version__, "seeds": seeds, "seconds": {}}
    for name, part in PARTS.items():
        started, rows = time.perf_counter(), []
        for seed in seeds:
            rows += part(seed)
            print(f"{name}, seed {seed}: {time.perf_counter() - started:.0f} s", file=sys.stderr, flush=True)
        result[name] = rows
        result["seconds"][name] = round(time.perf_counter() - started, 1)
    return result


def as_json(result: dict[str, Any]) -> str:
    """One row per line."""
    parts = []
    for name, value in result.items():
        if isinstance(value, list) and value and isinstance(value[0], dict):
            rows = ",\n".join(json.dumps(row) for row in value)
            parts.append(f"{json.dumps(name)}: [\n{rows}\n]")
        else:
            parts.append(f"{json.dumps(name)}: {json.dumps(value)}")
    return "{\n" + ",\n".join(parts) + "\n}\n"


if __name__ == "__main__":
    sys.exit(main())
