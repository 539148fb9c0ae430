"""What the machine code of the kernels says and the times that it predicts, by one compiler or side by side by several.

make kernels-report        # both compilers; fails where docs/kernels.md says otherwise
make kernels-tables        # the same, written into docs/kernels.md

python -m bench.kernels_report record out/kernels                        # the tables by the compiler at hand
python -m bench.kernels_report check docs/kernels.md out/kernels/*.json  # or write, or show
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
import triton

from bench import kernel_predictions, kernel_tables, page, tables
from bench.kernel_tables import LAUNCH_HEAD, LAUNCHES, SAMPLING, SAMPLING_HEAD, Table

CAPABILITY = "sm_90"


def all_tables() -> dict[str, Table]:
    """By the compiler at hand, under the names of their markers."""
    print(f"compiling by triton {triton.__version__}, some minutes", file=sys.stderr)
    launches = {
        name: [LAUNCH_HEAD, *(row for launch in group for row in kernel_tables.launch_rows(launch))]
        for name, group in LAUNCHES.items()
    }
    return {
        "sampling": [SAMPLING_HEAD, *map(kernel_tables.sampling_row, SAMPLING)],
        "predicted times": kernel_predictions.times(),
        "predicted targets": kernel_predictions.targets(),
        **launches,
    }


def record(folder: Path) -> Path:
    """Write the tables of the compiler at hand into the folder, under its version."""
    versions = {"triton": triton.__version__, "torch": torch.__version__}
    path = folder / f"triton-{triton.__version__}.json"
    folder.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps({**versions, "tables": all_tables()}, ensure_ascii=False, indent=1) + "\n")
    return path


def side_by_side(records: list[dict[str, Any]]) -> dict[str, str]:
    """The tables of several compilers as one each: a cell has one figure per compiler, or one that all agree on.

    Raises:
        ValueError: the records have different tables or rows, as when one of them is of other sources.
    """
    records = sorted(records, key=lambda found: [int(number) for number in found["triton"].split(".")])
    versions = " / ".join(found["triton"] for found in records)
    parts = {}
    for name in records[0]["tables"]:
        found = [each["tables"].get(name, []) for each in records]
        if len({tuple(row[0] for row in table) for table in found}) != 1:
            raise ValueError(f"the records do not have the same rows of {name!r}: write all of them anew")
        head, *rows = ([agreed(cells) for cells in zip(*same, strict=True)] for same in zip(*found, strict=True))
        text = tables.markdown([f"{head[0]}, {CAPABILITY}, triton {versions}", *head[1:]], rows)
        parts[name] = text
    return parts


def agreed(cells: tuple[str, ...]) -> str:
    return cells[0] if len(set(cells)) == 1 else " / ".join(cell or "–" for cell in cells)


def main(command: str, *arguments: str) -> None:
    paths = [Path(argument) for argument in arguments]
    if command == "record":
        print(record(*paths))
        return
    target, *files = paths
    parts = side_by_side([json.loads(path.read_text(encoding="utf-8")) for path in files])
    if command == "show":
        print("\n\n".join(parts.values()))
    elif command == "write":
        page.write(target, parts)
    elif command == "check" and (names := page.stale(target, parts)):
        raise SystemExit(
            f"{target} is not what the kernels compile to: {', '.join(names)}; make kernels-tables writes it"
        )


if __name__ == "__main__":
    main(*sys.argv[1:])
