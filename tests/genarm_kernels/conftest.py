"""Memory that nobody has written yet, and launches that are compiled instead of made."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from compiled_launches import compile_only
from torch import Tensor
from triton.compiler import CompiledKernel


@pytest.fixture
def stale_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is not written is NaN in new tensors of floats and 7 in those made like others."""
    empty, new_empty = torch.empty, Tensor.new_empty

    def filled(*size: Any, **options: Any) -> Tensor:
        tensor = empty(*size, **options)
        return tensor.fill_(math.nan) if tensor.is_floating_point() else tensor

    monkeypatch.setattr(torch, "empty", filled)
    monkeypatch.setattr(Tensor, "new_empty", lambda *a, **k: new_empty(*a, **k).fill_(7))


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """Every kernel that a call would have launched."""
    return compile_only(monkeypatch)
