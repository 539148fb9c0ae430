"""Triton has a compiler for each backend. The interpreter never calls it: torch asks for a name, to key its caches."""

from typing import Any

from triton.backends.nvidia import compiler


class InterpretedBackend(compiler.CUDABackend):
    @staticmethod
    def supports_target(target: Any) -> bool:
        return bool(target.backend == "cpu")

    def hash(self) -> str:
        return "interpreted"
