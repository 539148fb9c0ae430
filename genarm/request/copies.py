"""Several sequences per prompt: what was given per prompt is repeated for each of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from numbers import Real
from typing import Any

from torch import Tensor

from .guidance import LogitBias, Weights


def expanded(value: Any, batch: int, copies: int) -> Any:
    """What is given for ``batch / copies`` prompts, for ``batch`` sequences; anything else as it is."""
    if copies == 1 or isinstance(value, str | Mapping) or value is None:
        return value
    if isinstance(value, Tensor) and value.dim() and len(value) * copies == batch:
        return value.repeat_interleave(copies, dim=0)
    if isinstance(value, Sequence) and len(value) * copies == batch:
        return [entry for entry in value for _ in range(copies)]
    return value


def expanded_weights(weights: Weights, batch: int, copies: int) -> Weights:
    """The same where a flat list or tensor holds one number per reward model, not one per prompt."""
    flat = weights.dim() < 2 if isinstance(weights, Tensor) else isinstance(weights, Sequence) and _numbers(weights)
    return weights if flat else expanded(weights, batch, copies)


def expanded_bias(bias: LogitBias, batch: int, copies: int) -> LogitBias:
    """The same where a tensor [V] is for all rows."""
    return expanded(bias, batch, copies) if isinstance(bias, Tensor) and bias.dim() == 2 else bias


def _numbers(values: Sequence[Any]) -> bool:
    return all(isinstance(value, Real) for value in values)
