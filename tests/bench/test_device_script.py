"""The script for a machine with a GPU: what it runs by default fits into the files that it may leave."""

from __future__ import annotations

import re
from pathlib import Path

BENCH = Path(__file__).parents[2] / "bench"
MOST_FILES = 8


def test_at_most_eight_files_are_left() -> None:
    script = (BENCH / "device.sh").read_text(encoding="utf-8")
    (aside,) = re.findall(r'^ASIDE="(\w+)"', script, re.MULTILINE)
    suites = {path.stem.removeprefix("test_") for path in BENCH.glob("test_*.py")}
    assert aside in suites and {"decode", "speculation"} < suites
    assert len(suites - {aside} | {"gpu_tests"}) <= MOST_FILES
