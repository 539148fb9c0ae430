"""docs/kernels.md has the tables that bench/kernels_report.py writes. `make kernels-report` compares every figure."""

from itertools import groupby
from pathlib import Path

import pytest
import triton

from bench import kernel_predictions
from bench.kernel_tables import LAUNCH_HEAD, LAUNCHES, SAMPLING, SAMPLING_HEAD, launch_rows, sampling_row
from bench.kernels_report import side_by_side
from bench.page import part

PAGE = (Path(__file__).parents[2] / "docs/kernels.md").read_text(encoding="utf-8")
HEADS = {"sampling": (SAMPLING_HEAD, SAMPLING)} | {
    name: (LAUNCH_HEAD, [launch.name for launch in group]) for name, group in LAUNCHES.items()
}


def cells(name: str) -> list[list[str]]:
    """The rows of one of the page's tables, without the line under its head."""
    lines = part(PAGE, name).splitlines()
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[:1] + lines[2:]]


def versions(name: str) -> list[str]:
    return cells(name)[0][0].partition("triton ")[2].split(" / ")


@pytest.mark.parametrize("name", HEADS)
def test_tables_have_the_heads_and_rows_that_the_command_writes(name: str) -> None:
    (first, *others), *rows = cells(name)
    head, names = HEADS[name]
    assert first.startswith(f"{head[0]}, sm_90, triton ") and others == head[1:]
    # A launcher that starts several kernels has a row for each.
    assert [row for row, _ in groupby(row[0] for row in rows)] == names
    assert versions(name) == versions("sampling")


def test_predictions_are_of_the_calls_and_compilers_of_the_other_tables() -> None:
    assert {row[0] for row in cells("predicted times")[1:]} == set(kernel_predictions.CALLS)
    assert versions("predicted times") == versions("predicted targets") == versions("sampling")


@pytest.mark.parametrize("name", ["sampling", "steps"])
def test_a_row_is_what_its_kernel_compiles_to(name: str) -> None:
    known = versions(name)
    if triton.__version__ not in known:
        pytest.skip(f"NOT RUN: the page has figures of triton {' and '.join(known)}")
    launch = LAUNCHES["steps"][-2]
    fresh = sampling_row("regroup") if name == "sampling" else launch_rows(launch)[0]
    (row,) = (row for row in cells(name) if row[0] == fresh[0])
    figures = [cell.split(" / ") for cell in row[1:]]
    assert [found[known.index(triton.__version__) if len(found) > 1 else 0] for found in figures] == fresh[1:]


def test_compilers_stand_side_by_side_where_they_differ() -> None:
    def record(version: str, *rows: list[str]) -> dict[str, object]:
        return {"triton": version, "tables": {"a": [["kernel", "registers"], *rows]}}

    parts = side_by_side([record("3.10.0", ["x", "2"], ["y", "3"]), record("3.9.0", ["x", "2"], ["y", ""])])
    assert parts["a"].splitlines()[2:] == ["| x | 2 |", "| y | – / 3 |"]
    assert parts["a"].startswith("| kernel, sm_90, triton 3.9.0 / 3.10.0 | registers |")
    with pytest.raises(ValueError, match="the same rows of 'a'"):
        side_by_side([record("3.9.0", ["x", "2"]), record("3.10.0", ["z", "2"])])
