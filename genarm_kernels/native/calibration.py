"""Whether decoding is faster by the kernels in C or by torch's operations on this machine: measured, not looked up.

Timed is what decoding does: a step of one row, and one of four of which three have an adapter of their own (trial.py);
then single products of more and more rows, as a prompt has them. It is done once: the figures are kept beside the
compiled kernels, under a name that tells the processor, the kernels, torch and the number of threads.
"""

from __future__ import annotations

import json
import os
import tempfile
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict
from functools import cache
from pathlib import Path
from statistics import median
from time import perf_counter

import torch
from torch.nn import functional as F

from genarm_kernels.native import library
from genarm_kernels.native.figures import PRODUCT_ROWS, STEP_ROWS, Figures, place, read
from genarm_kernels.native.products import linear
from genarm_kernels.native.trial import Trial

REPEATS = 7
PATIENCE = 0.3  # seconds of one comparison after which it is not repeated


@cache
def figures(dtype: torch.dtype, threads: int) -> Figures | None:
    """This machine's, measured where nobody has yet; None where there are no kernels. ``threads`` are torch's now."""
    kernels = library.compiled(dtype)
    if kernels is None:
        return None
    compiled = Path(kernels._name)
    path = place(compiled, torch.__version__, torch.backends.cpu.get_cpu_capability(), threads)
    found = read(path)
    return _keep(path, _measured(dtype)) if found is None else found


def _keep(path: Path, measured: Figures) -> Figures:
    """Put them where every process looks -> those that all will find there: of several processes the first one's.

    The file appears whole or not at all.
    """
    try:
        with tempfile.NamedTemporaryFile("w", dir=path.parent, suffix=".tmp") as file:
            json.dump(asdict(measured), file)
            file.flush()
            if path.exists() and read(path) is None:
                path.unlink(missing_ok=True)
            with suppress(FileExistsError):
                os.link(file.name, path)
        return read(path) or measured
    except OSError:  # a full disk, or one without links: this process has its own figures
        return measured


def _measured(dtype: torch.dtype) -> Figures:
    steps, products = {}, {}
    with torch.inference_mode(), torch.autocast("cpu", enabled=False), torch.device("cpu"):
        for rows in STEP_ROWS:
            trial = Trial(dtype, rows)
            steps[rows] = _milliseconds(trial.by_kernels, trial.by_torch)
        weight = torch.full((1024, 1024), 0.01, dtype=dtype)
        for rows in PRODUCT_ROWS:
            products[rows] = _product_milliseconds(torch.full((rows, 1024), 0.01, dtype=dtype), weight)
    return Figures(steps, products)


def _product_milliseconds(x: torch.Tensor, weight: torch.Tensor) -> tuple[float, float]:
    return _milliseconds(lambda: linear(x, weight), lambda: F.linear(x, weight))


def _milliseconds(own: Callable[[], object], torchs: Callable[[], object]) -> tuple[float, float]:
    """The median of each, taken in turns so that what else the machine does slows both."""
    times: dict[Callable[[], object], list[float]] = {own: [], torchs: []}
    for way in times:  # what is made at a first call is not counted
        way()
    began = perf_counter()
    for _ in range(REPEATS):
        for way, taken in times.items():
            start = perf_counter()
            way()
            taken.append(1e3 * (perf_counter() - start))
        if perf_counter() - began > PATIENCE:
            break
    return median(times[own]), median(times[torchs])
