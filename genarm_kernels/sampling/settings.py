"""A row's settings: numbers for every row, or tensors [B] of them."""

import math
from typing import Any

import torch
from torch import Tensor

from genarm_kernels.noise import row_seeds

# What numbers may be, ends included.
RANGES = {
    "temperature": (0.0, math.inf),
    "top_k": (0.0, math.inf),
    "top_p": (0.0, math.inf),
    "min_p": (0.0, 1.0),
    "base_min_p": (0.0, 1.0),
    "base_top_p": (0.0, math.inf),
    "position": (-math.inf, math.inf),
}


def is_on(name: str, value: Any, V: int) -> Any:
    """Whether a filter's number, or each of its tensor's, leaves anything out."""
    if name == "top_k":
        return (value > 0) & (value < V)
    return value < 1 if name.endswith("top_p") else value > 0


def span(name: str) -> str:
    """The range of a number, in words."""
    low, high = RANGES[name]
    return f"≥ {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"


def row_values(name: str, value: object, B: int, device: torch.device, integer: bool = False) -> Tensor:
    """A setting -> its values [B]."""
    return _spread(_checked(name, value, B, device, integer), B, device, integer)


def filter_values(name: str, value: object, B: int, device: torch.device, V: int) -> Tensor | None:
    """A filter -> its values [B], or None where a number switches it off."""
    integer = name == "top_k"
    setting = _checked(name, value, B, device, integer)
    if not isinstance(setting, Tensor) and not is_on(name, setting, V):
        return None
    return _spread(setting, B, device, integer)


def seed_values(seed: object, B: int, device: torch.device) -> Tensor:
    """A batch seed or row seeds [B] -> row seeds [B]."""
    seed = _item(seed)
    if isinstance(seed, Tensor):
        _check_tensor("seed", seed, B, device, integer=True)
        return _spread(seed, B, device, integer=True) if seed.ndim else row_seeds(_on_device(seed, device), B)
    if isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed is {type(seed).__name__}: expected an integer or an int64 tensor [B]")
    return row_seeds(seed, B, device)


def _checked(name: str, value: object, B: int, device: torch.device, integer: bool) -> Tensor | float:
    value = _item(value)
    if isinstance(value, Tensor):
        _check_tensor(name, value, B, device, integer)
        return value
    if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
        kind = "an integer" if integer else "a number"
        raise TypeError(f"{name} is {type(value).__name__}: expected {kind} or a tensor [B]")
    low, high = RANGES[name]
    if not low <= value <= high or value == math.inf:
        raise ValueError(f"{name} is {value}: expected a value {span(name)}")
    if integer and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {value}: expected a 64-bit integer")
    return value


def _item(value: object) -> object:
    """The number that a tensor of no dimensions holds, where it can be had."""
    return value.item() if isinstance(value, Tensor) and value.ndim == 0 and readable(value) else value


def _check_tensor(name: str, value: Tensor, B: int, device: torch.device, integer: bool) -> None:
    if value.ndim or value.device.type != "cpu":
        same_device(name, value, device)
    if value.is_complex() or value.dtype == torch.bool or value.is_floating_point() == integer:
        kind = "an integer" if integer else "a floating-point"
        raise TypeError(f"{name} is {value.dtype}: expected {kind} tensor [B]")
    if value.ndim and value.shape != (B,):
        raise ValueError(f"{name} has shape {list(value.shape)}: expected a scalar or [{B}], one value per row")


def _spread(value: Tensor | float, B: int, device: torch.device, integer: bool) -> Tensor:
    """A checked number or tensor -> a tensor [B] on the device."""
    dtype = torch.int64 if integer else torch.float32
    if isinstance(value, Tensor):
        return _on_device(value.to(dtype), device).expand(B)
    if torch.compiler.is_compiling() and not integer:
        # A compiler takes an operand as a number that may change, and a value to fill with as a constant.
        return torch.zeros(B, dtype=dtype, device=device) + value
    return torch.full((B,), value, dtype=dtype, device=device)


def _on_device(value: Tensor, device: torch.device) -> Tensor:
    """A tensor of no dimensions comes from the CPU as an operand: no copy, which a graph could not capture."""
    return value if value.device == device else torch.zeros((), dtype=value.dtype, device=device) + value


def readable(value: Tensor) -> bool:
    """Whether a tensor's values can be had here and now: not while a compiler traces, and not of a fake tensor."""
    return not torch.compiler.is_compiling() and type(value) is Tensor and value.device.type == "cpu"


def same_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(f"{name} is on {value.device} and logits[0] on {device}: move it there")
