"""The log-probability suite's rows as a markdown table, as it stands in docs/benchmarks.md.

python -m bench.logprobs_table out/device/logprobs.json
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from bench.roofline import label, read

Row = dict[str, Any]
NAMES = {
    "ours": "genarm",
    "plain": "all logits",
    "compiled": "all logits, compiled",
    "liger": "Liger, a grad a token",
    "liger-sum": "Liger, a sum",
}


def _ratio(row: Row, other: str) -> str:
    value = row["notes"].get(f"over_{other}")
    return "" if value is None or row["notes"]["way"] == other else f"{value:.2f}"


COLUMNS: dict[str, Callable[[Row], str]] = {
    "dtype": lambda row: row["notes"]["dtype"],
    "N": lambda row: f"{row['notes']['N']:,}",
    "H": lambda row: f"{row['notes']['H']:,}",
    "V": lambda row: f"{row['notes']['V']:,}",
    "mode": lambda row: row["notes"]["mode"],
    "way": lambda row: NAMES[row["notes"]["way"]],
    "ms": lambda row: f"{row['median_us'] / 1e3:.1f}",
    "peak, MB": lambda row: f"{row['notes']['peak_MB']:,.0f}",
    "over all logits": lambda row: _ratio(row, "plain"),
    "over Liger": lambda row: _ratio(row, "liger"),
    "over Liger's sum": lambda row: _ratio(row, "liger-sum"),
    "of the floor": lambda row: f"{row['notes']['share_of_floor']:.0%}",
}


def load(path: Path) -> Row:
    """The suite's record, or SystemExit with what is wrong with it."""
    record = read(path)
    if not all("share_of_floor" in row["notes"] for row in record["rows"]):
        raise SystemExit(f"{path} has rows of another suite: this reads the log-probability suite only")
    return record


def table(record: Row) -> str:
    cells = {name: [cell(row) for row in record["rows"]] for name, cell in COLUMNS.items()}
    cells = {name: column for name, column in cells.items() if any(column)}
    lines = ["| " + " | ".join(cells) + " |", "|" + "---|" * len(cells)]
    lines += ["| " + " | ".join(line) + " |" for line in zip(*cells.values(), strict=True)]
    return "\n".join([label(record), "", *lines]) + "\n"


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit(__doc__)
    sys.stdout.write(table(load(Path(sys.argv[1]))))
