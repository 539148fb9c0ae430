"""A launcher's own calls, specialised by Triton as for a GPU and compiled without one, and their machine code.

with compiled() as kernels:          # for compute capability 90
    skinny_linear(x, weight)         # CPU tensors; nothing runs
read(kernels[0]).registers
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType, SimpleNamespace

import pytest
from triton.backends.compiler import GPUTarget
from triton.compiler import CompiledKernel
from triton.runtime import driver
from triton.runtime.jit import JITFunction

from bench.machine_code import dump, instructions_in


@contextmanager
def compiled(capability: int = 90, *modules: ModuleType) -> Iterator[list[CompiledKernel]]:
    """Every kernel that calls within it would have launched there; these modules take CPU tensors to kernels too."""
    with pytest.MonkeyPatch.context() as patch:
        for module in modules:
            patch.setattr(module, "INTERPRETED", True)
        kernels = compile_only(patch)
        on(capability, patch)
        yield kernels


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


def loads(kernel: CompiledKernel) -> Counter[str]:
    """How memory is read: into registers (LDG) or into shared memory past them (LDGSTS)."""
    names = (_name(text) for _, text in _listing(kernel))
    return Counter(name for name in names if name.startswith("LDG") and name != "LDGDEPBAR")


def loops(kernel: CompiledKernel) -> list[Counter[str]]:
    """The instructions between each backward branch and its target."""
    listing = _listing(kernel)
    branches = [(at, target) for at, text in listing for target in re.findall(r"\bBRA\b.*?(0x[0-9a-f]+)", text)]
    return [
        Counter(_name(text) for at, text in listing if int(head, 16) <= at <= end)
        for end, head in branches
        if int(head, 16) < end
    ]


def multiplying_loop(kernel: CompiledKernel) -> Counter[str]:
    """The innermost loop that multiplies matrices."""
    bodies = [body for body in loops(kernel) if any(name.startswith("HMMA") for name in body)]
    return min(bodies, key=Counter.total)


def sass(kernel: CompiledKernel) -> str:
    return dump(kernel.asm["cubin"])[0]


def _listing(kernel: CompiledKernel) -> list[tuple[int, str]]:
    return instructions_in(sass(kernel))


def _name(text: str) -> str:
    return re.sub(r"^@!?U?P\w+\s+", "", text).split()[0]
