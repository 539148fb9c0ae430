"""Loads the compiled kernels."""

from __future__ import annotations

import ctypes
import os
import warnings
from functools import cache
from pathlib import Path

import torch

from genarm_kernels.native import compiler

DEFINES = {getattr(torch, name): flags for name, flags in compiler.DEFINES.items()}


def compiled(dtype: torch.dtype) -> ctypes.CDLL | None:
    """The kernels whether or not they are to be used, None where they cannot be made."""
    return _library(dtype)


def threads() -> int:
    """How many threads a call may have: torch's number, one in a process forked from one that had a team of them."""
    global _had_a_team
    _had_a_team = True
    return 1 if _forked else torch.get_num_threads()


_had_a_team = _forked = False


def _after_fork() -> None:
    global _forked
    _forked = _had_a_team  # whose threads did not come along: waiting for them would never end


os.register_at_fork(after_in_child=_after_fork)


@cache
def _library(dtype: torch.dtype) -> ctypes.CDLL | None:
    try:
        path = compiler.compiled(DEFINES[dtype])
        try:
            return _load(path)
        except OSError:  # one that was cut short, by a full disk say
            path.unlink()
            return _load(compiler.compiled(DEFINES[dtype]))
    except (compiler.CompileError, OSError) as error:
        warnings.warn(
            f"genarm's CPU kernels are left out, decoding is slower without: {error}. Install a C compiler with "
            "OpenMP (gcc), or set GENARM_NATIVE=0",
            stacklevel=2,
        )
        return None


def _load(path: Path) -> ctypes.CDLL:
    # Its OpenMP is the one torch has loaded: threads are shared.
    loaded = ctypes.CDLL(str(path))
    pointer, size = ctypes.c_void_p, ctypes.c_int64
    loaded.packed_rows.restype = loaded.chunks_of.restype = size
    loaded.packed_rows.argtypes, loaded.chunks_of.argtypes = [size, size], [size]
    for name in ("linear_rows", "decode", "combine_scores", "race", "group_masses", "model_masses", "row_totals"):
        getattr(loaded, name).restype = None
    loaded.linear_rows.argtypes = [
        pointer, size, pointer, size, pointer, pointer, size, size, size, size, pointer, size, ctypes.c_int,
    ]  # fmt: skip
    loaded.decode.argtypes = [pointer, pointer, pointer, ctypes.c_int]
    loaded.combine_scores.argtypes = [pointer, ctypes.c_int]
    loaded.race.argtypes = [pointer, size, size, *[pointer] * 6, ctypes.c_int]
    loaded.group_masses.argtypes = [pointer, size, size, *[pointer] * 3, ctypes.c_int]
    loaded.model_masses.argtypes = [*[pointer] * 3, *[size] * 4, pointer, pointer, ctypes.c_int]
    loaded.row_totals.argtypes = [pointer, pointer, size, size, pointer, pointer, pointer]
    return loaded
