"""The kernels in C as processors with other instructions have them."""

from __future__ import annotations

from functools import cache
from typing import Any

import pytest
import torch

from genarm_kernels.native import compiler, library

DEFINES = dict(library.DEFINES)


@cache
def built(dtype: torch.dtype, flag: str) -> Any:
    """Compiled quickly: with one order of every sum, optimising changes no bit."""
    return library._load(compiler.compiled((*DEFINES[dtype], flag, "-O1")))


def emulate(monkeypatch: pytest.MonkeyPatch, flag: str) -> None:
    """The kernels as a processor with other instructions has them."""
    monkeypatch.setattr(library, "DEFINES", {dtype: (*defines, flag) for dtype, defines in DEFINES.items()})
    monkeypatch.setattr(library, "_library", lambda dtype: built(dtype, flag))
