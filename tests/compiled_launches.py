"""A launcher's own calls, specialised by Triton as for a GPU and compiled without one."""

from __future__ import annotations

from types import SimpleNamespace

import pytest
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

# Shared memory that a program may have, by compute capability.
SHARED_BYTES = {80: 166912, 90: 232448, 100: 232448}


def compile_only(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """From here on every kernel that a call would have launched is compiled, for 90 unless `on` says otherwise, and
    added to this list."""
    kernels: list[CompiledKernel] = []
    run = JITFunction.run

    def compile_launch(self: JITFunction, *arguments: object, warmup: bool, **keywords: object) -> CompiledKernel:
        kernels.append(run(self, *arguments, warmup=True, **keywords))
        return kernels[-1]

    monkeypatch.setattr(JITFunction, "run", compile_launch)
    on(90, monkeypatch)
    return kernels


def on(capability: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Compile for a device of this capability."""
    target = GPUTarget("cuda", capability, 32)
    fake = SimpleNamespace(
        get_current_device=lambda: capability, get_current_target=lambda: target, get_current_stream=lambda _: 0
    )
    monkeypatch.setattr(driver, "_active", fake)
