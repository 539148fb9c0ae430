"""Whether the kernels in C run here and why, for people: read from files, without torch and without measuring."""

from __future__ import annotations

import os
from importlib.metadata import version

from genarm_kernels.native import compiler
from genarm_kernels.native.compiler import DEFINES, CompileError
from genarm_kernels.native.figures import Figures, kept


def why() -> tuple[bool | None, str]:
    """Whether they run, None where that is not measured yet, and why or why not."""
    chosen = os.environ.get("GENARM_NATIVE", "")
    if chosen == "0":
        return False, "GENARM_NATIVE=0"
    if not has_avx2():
        return False, "a processor without AVX2, whose instructions the kernels in C are written in"
    try:
        found = {(name, threads): one for name in DEFINES for threads, one in _figures(name).items()}
    except CompileError as error:
        return False, f"{error}: install one with OpenMP, such as gcc"
    if chosen == "1":
        return True, "GENARM_NATIVE=1"
    if not found:
        return (
            None,
            "not measured yet: the first decoding on a CPU compiles and measures them, which takes some seconds",
        )
    runs = list(dict.fromkeys(name for (name, _), one in found.items() if one.native))
    texts = "; ".join(f"{name} on {_threads(threads)}: {one}" for (name, threads), one in found.items())
    return bool(runs), f"measured here, faster for {' and '.join(runs) or 'neither dtype'}. {texts}"


def has_avx2() -> bool:
    """Whether the processor has the instructions, and torch was not told to do without."""
    return (
        " avx2 " in f"{compiler.processor()} ".replace("\n", " ") and os.environ.get("ATEN_CPU_CAPABILITY") != "default"
    )


def _figures(name: str) -> dict[int, Figures]:
    return kept(compiler.place(name), version("torch"))


def _threads(count: int) -> str:
    return f"{count} thread" + ("s" if count > 1 else "")
