"""Turns what a suite left behind into one JSON per suite, and all of them into a short digest.

    python -m bench.report write SUITE RAW_DIR OUT_DIR EXIT_STATUS COMMAND
    python -m bench.report digest OUT_DIR

A suite's JSON holds the device, versions, commit, command and exit status, what was skipped and why, and one row
per benchmark with its median in microseconds and whatever the benchmark noted.
"""

from __future__ import annotations

import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections import Counter
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import torch

from bench.targets import digest, launches

PACKAGES = ("torch", "triton", "transformers", "peft", "numpy", "pytest-benchmark", "flashinfer-python")
MOST_ROWS = 40
COMPLETE = (0, 5)  # pytest's exit statuses for "passed" and "nothing to run"


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
    rows, junit = raw / f"{suite}.jsonl", raw / f"{suite}.xml"
    record = {"suite": suite, **environment(), "command": command, "exit_status": status}
    # A run that was killed has rows and no XML.
    if junit.is_file() and junit.stat().st_size:
        record["tests"], record["skipped"] = _outcomes(junit)
    record["rows"] = [json.loads(line) for line in rows.read_text().splitlines()] if rows.is_file() else []
    (out / f"{suite}.json").write_text(json.dumps(record, indent=1) + "\n")


def show(out: Path) -> None:
    """Print every suite in short, and last how many kernels a decoding step launched."""
    last: list[str] = []
    for path in sorted(out.glob("*.json")):
        record = json.loads(path.read_text())
        print(f"\n{record['suite']} on {record['device']}, torch {record['versions']['torch']}, {record['commit']}")
        if "tests" in record:
            print("  " + ", ".join(f"{count} {name}" for name, count in record["tests"].items()))
            for reason, count in list(record["skipped"].items())[:4]:
                print(f"  skipped {count}: {reason}")
        print("\n".join(digest(record) or _table(record["rows"])))
        if record["exit_status"] not in COMPLETE:
            print(f"  FAILED with exit status {record['exit_status']}: {record['command']}")
        if record["suite"] == "decode":
            last = launches(record)
    if last:
        print("\n" + "\n".join(last))


def _table(rows: list[dict[str, Any]]) -> list[str]:
    lines = []
    for row in rows[:MOST_ROWS]:
        notes = "  ".join(f"{key} {_short(value)}" for key, value in row["notes"].items())
        lines.append(f"  {row['name']:<64} {row['median_us']:>10.1f} µs  {notes}")
    return lines + ([f"  and {len(rows) - MOST_ROWS} more rows"] if len(rows) > MOST_ROWS else [])


def _outcomes(junit: Path) -> tuple[dict[str, int], dict[str, int]]:
    """How many tests ended how, and how many were skipped for each reason."""
    root = ElementTree.parse(junit).getroot()
    suites = list(root.iter("testsuite"))
    total = {key: sum(int(suite.get(key, 0)) for suite in suites) for key in ("tests", "failures", "errors", "skipped")}
    passed = total["tests"] - total["failures"] - total["errors"] - total["skipped"]
    return {"passed": passed, **total}, dict(Counter(skip.get("message", "") for skip in root.iter("skipped")))


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
    # A figure from an edited tree must not pass for the commit's.
    describe = ["git", "describe", "--always", "--dirty", "--exclude=*"]
    try:
        done = subprocess.run(describe, capture_output=True, text=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return done.stdout.strip()


if __name__ == "__main__":
    if sys.argv[1:2] == ["write"] and len(sys.argv) == 7:
        write(sys.argv[2], Path(sys.argv[3]), Path(sys.argv[4]), int(sys.argv[5]), sys.argv[6])
    elif sys.argv[1:2] == ["digest"] and len(sys.argv) == 3:
        show(Path(sys.argv[2]))
    else:
        sys.exit(__doc__)
