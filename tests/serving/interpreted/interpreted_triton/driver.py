"""Triton has a driver for each backend. That of a CPU is always there, and launches nothing: the interpreter does."""

from typing import Any

from triton.backends.compiler import GPUTarget
from triton.backends.nvidia import driver


class InterpretedDriver(driver.CudaDriver):
    def __init__(self) -> None:
        pass

    @staticmethod
    def is_active() -> bool:
        return True

    def get_current_target(self) -> Any:
        return GPUTarget("cpu", 0, 32)
