"""The figures of a calibration, and the files they are kept in. Torch is not needed to read them."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

STEP_ROWS = (1, 4)
PRODUCT_ROWS = (8, 32, 128, 512)

Times = dict[int, tuple[float, float]]  # rows -> milliseconds in C, by torch


@dataclass(frozen=True, slots=True)
class Figures:
    """What was measured: whole steps, and single products."""

    steps: Times
    products: Times

    @property
    def native(self) -> bool:
        """Whether steps in C are the faster ones, by the mean of their ratios to torch's."""
        return sum(math.log(own / torchs) for own, torchs in self.steps.values()) <= 0

    @property
    def most_rows(self) -> float:
        """Up to how many rows products in C are the faster ones."""
        rows = STEP_ROWS[-1]  # for so few the steps have decided
        for count, (own, torchs) in sorted(self.products.items()):
            if own > torchs:
                return rows
            rows = count
        return math.inf

    def __str__(self) -> str:
        rows, own, torchs = zip(*((rows, *both) for rows, both in self.steps.items()), strict=True)
        figures = [" and ".join(f"{value:.1f}" for value in values) for values in (own, torchs)]
        return f"a step of {rows[0]} and {rows[1]} rows takes {figures[0]} ms in C, {figures[1]} by torch"


def place(library: Path, torch_version: str, capability: str, threads: int) -> Path:
    """Where the figures of a compiled library are kept: beside it, under a name that tells what they depend on."""
    return library.with_name(f"{library.stem}-{torch_version}-{capability}-{threads}.json")


def kept(library: Path, torch_version: str) -> dict[int, Figures]:
    """All figures of a compiled library under this torch, by the number of threads."""
    paths = library.parent.glob(f"{library.stem}-{torch_version}-*.json")
    found = {int(path.stem.rpartition("-")[2]): read(path) for path in sorted(paths)}
    return {threads: figures for threads, figures in sorted(found.items()) if figures is not None}


def read(path: Path) -> Figures | None:
    """None where there is no file, or one that holds anything but figures."""
    try:
        content = json.loads(path.read_text())
        steps, products = _times(content["steps"]), _times(content["products"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError, OverflowError):
        return None
    return Figures(steps, products) if (*steps, *products) == (*STEP_ROWS, *PRODUCT_ROWS) else None


def _times(content: dict[str, list[float]]) -> Times:
    times = {int(rows): (float(own), float(torchs)) for rows, (own, torchs) in content.items()}
    if not all(0 < value < math.inf for both in times.values() for value in both):
        raise ValueError("not the times of anything")
    return times
