"""Compiles the C sources for this processor, once, and names where the library lies. Torch is not needed for either, so
that `genarm info` can look at once.

It takes a C compiler with OpenMP, as Triton and torch.compile need one too. Whether the kernels are then used is for
choice.py.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

SOURCES = Path(__file__).parent
MAIN = "kernels.c"
FLAGS = ("-std=gnu11", "-O3", "-march=native", "-ffp-contract=off", "-fopenmp", "-shared", "-fPIC")
DEFINES: dict[str, tuple[str, ...]] = {"bfloat16": ("-DBFLOAT16",), "float32": ()}
SECONDS = 120  # that a compiler may take


class CompileError(RuntimeError):
    """No library could be made; the message says why."""


def compiled(defines: tuple[str, ...]) -> Path:
    """The shared library's path, which other processes use too; it appears there whole or not at all."""
    path, command = _place(defines)
    if not path.exists() or not _is_private(path):
        with tempfile.TemporaryDirectory(dir=path.parent) as work:
            made = Path(work) / path.name
            _run([*command, str(SOURCES / MAIN), "-o", str(made), "-lm"])
            with made.open("rb") as whole:
                os.fsync(whole.fileno())
            made.replace(path)
    return path


def place(dtype: str) -> Path:
    """Where the library for tensors of this dtype lies, or will lie.

    Raises:
        CompileError: there is no compiler.
    """
    return _place(DEFINES[dtype])[0]


def _place(defines: tuple[str, ...]) -> tuple[Path, list[str]]:
    """The library's path, and the command that makes it."""
    compiler = os.environ.get("CC") or shutil.which("gcc") or shutil.which("cc")
    if not compiler:
        raise CompileError("no C compiler was found")
    command = [*compiler.split(), *FLAGS, *defines]
    return _folder() / f"kernels-{_fingerprint(command)}.so", command


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
    digest.update(processor().encode())
    return digest.hexdigest()[:24]


def processor() -> str:
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
