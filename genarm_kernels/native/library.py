"""Compiles the C sources for this processor, once, and loads them.

It takes a C compiler with OpenMP, as Triton and torch.compile need one too. Whether the kernels are then used is for
choice.py.
"""

from __future__ import annotations

import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
import warnings
from functools import cache
from pathlib import Path

import torch

SOURCES = Path(__file__).parent
MAIN = "kernels.c"
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")
DEFINES = {torch.bfloat16: ("-DBFLOAT16",), torch.float32: ()}
SECONDS = 120  # that a compiler may take


class CompileError(RuntimeError):
    """No library could be made; the message says why."""


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
        path = _compiled(DEFINES[dtype])
        try:
            return _load(path)
        except OSError:  # one that was cut short, by a full disk say
            path.unlink()
            return _load(_compiled(DEFINES[dtype]))
    except (CompileError, OSError) as error:
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
    for function in (loaded.linear_rows, loaded.decode, loaded.combine_scores, loaded.race):
        function.restype = None
    loaded.linear_rows.argtypes = [
        pointer, size, pointer, size, pointer, pointer, size, size, size, size, pointer, size, ctypes.c_int,
    ]  # fmt: skip
    loaded.decode.argtypes = [pointer, pointer, pointer, ctypes.c_int]
    loaded.combine_scores.argtypes = [pointer, ctypes.c_int]
    loaded.race.argtypes = [pointer, size, size, pointer, pointer, pointer, pointer, pointer, ctypes.c_int]
    return loaded


def _compiled(defines: tuple[str, ...]) -> Path:
    """The shared library's path, which other processes use too; it appears there whole or not at all."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise CompileError("no C compiler was found")
    command = [*compiler.split(), *FLAGS, *defines]
    path = _folder() / f"kernels-{_fingerprint(command)}.so"
    if not path.exists() or not _is_private(path):
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            made = Path(work) / path.name
            _run([*command, str(SOURCES / MAIN), "-o", str(made), "-lm"])
            with made.open("rb") as whole:
                os.fsync(whole.fileno())
            made.replace(path)
    return path


def _run(command: list[str]) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired) as error:
        raise CompileError(str(error)) from error
    if done.returncode:
        raise CompileError(f"{command[0]} ended with {done.returncode}: {done.stderr.strip()[-500:]}")
    return done.stdout


def _fingerprint(command: list[str]) -> str:
    """Of everything that the library's bytes depend on: sources, command, compiler, processor."""
    digest = hashlib.sha256("\0".join(command).encode())
    digest.update(_run([command[0], "--version"]).encode())
    for source in sorted(SOURCES.glob("*.[ch]")):
        digest.update(source.read_bytes())
    digest.update(_processor().encode())
    return digest.hexdigest()[:24]


def _processor() -> str:
    """Names the instructions that -march=native chooses from."""
    try:
        first = Path("/proc/cpuinfo").read_text().split("\n\n")[0]
    except OSError:
        return os.uname().machine
    kept = ("vendor_id", "cpu family", "model", "flags", "Features")
    return "\n".join(line for line in first.splitlines() if line.split("\t")[0].split(":")[0].strip() in kept)


def _folder() -> Path:
    """Where libraries are kept: the user's cache, a folder nobody else writes; without one, this process's own."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or "")
        folder = (base if base.is_absolute() else Path.home() / ".cache") / "genarm" / "native"
        for one in (folder.parent, folder):
            one.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_private(folder.parent) and _is_private(folder) and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: there is no home
        pass
    return _own_folder()


def _is_private(path: Path) -> bool:
    """Whether this is the user's own and nobody else may write it: what lies there is going to be run."""
    status = path.stat()
    return status.st_uid == os.getuid() and not status.st_mode & 0o022


@cache
def _own_folder() -> Path:
    return Path(tempfile.mkdtemp(prefix="genarm-native-"))
