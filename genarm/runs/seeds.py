"""The seeds of a run's rows: the same for a row whatever else is decoded, and wherever."""

from __future__ import annotations

from collections.abc import Sequence

import genarm_kernels

from .rows import Row


def run_seeds(seed: int, rows: Sequence[Row]) -> list[int]:
    """The row seeds of a run's own seed, by the rows' ``index``."""
    return genarm_kernels.row_seeds(seed, max((row.index for row in rows), default=0) + 1).tolist()


def seed_of(row: Row, seeds: Sequence[int], own: int | None) -> int:
    """A row's among ``run_seeds``, or, where it has a seed of its ``own``, that one's for its sample."""
    if own is None:
        return seeds[row.index]
    place = (row.sample or 1) - 1
    return int(genarm_kernels.row_seeds(own, place + 1)[place])
