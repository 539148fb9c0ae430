"""Turns what a suite left behind into one JSON a suite, and all of them into a short table.

    python bench/report.py write SUITE RAW_DIR OUT_DIR EXIT_STATUS COMMAND
    python bench/report.py table OUT_DIR

A suite's JSON holds the device, versions, commit, command and exit status, and a row a benchmark with its median in
microseconds and whatever the benchmark noted (bytes, GB/s, share of copy bandwidth).
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

PACKAGES = ("torch", "triton", "transformers", "peft", "numpy", "pytest-benchmark")


def environment() -> dict[str, Any]:
    """Where and with what a suite ran."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        cuda = torch.version.cuda
    else:
        device, cuda = f"CPU ({platform.processor() or platform.machine()}, {torch.get_num_threads()} threads)", None
    return {
        "device": device,
        "cuda": cuda,
        "python": platform.python_version(),
        "versions": {name: _version(name) for name in PACKAGES},
        "commit": _commit(),
    }


def write(suite: str, raw: Path, out: Path, status: int, command: str) -> None:
    """Write OUT_DIR/SUITE.json."""
    rows: list[dict[str, Any]] = []
    benchmark, junit = raw / f"{suite}.json", raw / f"{suite}.xml"
    if benchmark.is_file() and benchmark.stat().st_size:
        rows = [_row(entry) for entry in json.loads(benchmark.read_text())["benchmarks"]]
    record = {"suite": suite, **environment(), "command": command, "exit_status": status, "rows": rows}
    if junit.is_file():
        record["tests"] = _counts(junit)
    (out / f"{suite}.json").write_text(json.dumps(record, indent=1) + "\n")


def table(out: Path) -> None:
    """Print every suite's rows."""
    for path in sorted(out.glob("*.json")):
        record = json.loads(path.read_text())
        print(
            f"\n{record['suite']} on {record['device']}, torch {record['versions']['torch']}, commit {record['commit']}"
        )
        if "tests" in record:
            print("  " + ", ".join(f"{count} {name}" for name, count in record["tests"].items()))
        for row in record["rows"]:
            notes = "  ".join(f"{key} {_short(value)}" for key, value in row["notes"].items())
            print(f"  {row['name']:<64} {row['median_us']:>10.1f} µs  {notes}")
        if record["exit_status"] not in (0, 5):
            print(f"  FAILED with exit status {record['exit_status']}: {record['command']}")


def _row(entry: dict[str, Any]) -> dict[str, Any]:
    notes = dict(entry.get("extra_info") or {})
    # A round may hold several calls, to rotate inputs through more than the cache.
    median = notes.pop("us_per_call", entry["stats"]["median"] * 1e6)
    return {"name": entry["name"], "median_us": median, "notes": notes}


def _counts(junit: Path) -> dict[str, int]:
    suites = list(ElementTree.parse(junit).getroot().iter("testsuite"))
    total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    return {"passed": total["tests"] - total["failures"] - total["errors"] - total["skipped"], **total}


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def _version(name: str) -> str | None:
    try:
        return importlib.metadata.version(name)
    except importlib.metadata.PackageNotFoundError:
        return None


def _commit() -> str | None:
    if os.environ.get("COMMIT"):
        return os.environ["COMMIT"]
    try:
        done = subprocess.run(["git", "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"] and len(sys.argv) == 7:
        write(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    elif sys.argv[1:2] == ["table"] and len(sys.argv) == 3:
        table(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
