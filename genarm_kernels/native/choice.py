"""Whether the kernels in C are used on a CPU: where they are the faster way, which is measured once on every machine.

GENARM_NATIVE=0 leaves them out, GENARM_NATIVE=1 takes them unmeasured.
"""

from __future__ import annotations

import ctypes
import os

import torch

from genarm_kernels.native import calibration
from genarm_kernels.native.figures import Figures
from genarm_kernels.native.library import DEFINES, compiled


def library(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels for tensors of ``dtype``, None where torch is to be used."""
    if dtype not in DEFINES:
        return None
    chosen = wanted()
    if chosen is None:
        measured = figures(dtype)
        chosen = measured is not None and measured.native
    return compiled(dtype) if chosen else None


def wanted() -> bool | None:
    """What is settled before anything is measured: by the environment, or by a processor without the instructions that
    the sources are written in. None where measuring decides."""
    chosen = os.environ.get("GENARM_NATIVE", "")
    if chosen == "0" or not torch.backends.cpu.get_cpu_capability().startswith("AVX"):
        return False
    return True if chosen == "1" else None


def figures(dtype: torch.dtype) -> Figures | None:
    """What was measured on this machine, at the first call; None where it does not matter or cannot be."""
    if dtype not in DEFINES or wanted() is not None:
        return None
    return calibration.figures(dtype, torch.get_num_threads())


def takes(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether steps of models of this dtype run in C here."""
    return device.type == "cpu" and library(dtype) is not None
