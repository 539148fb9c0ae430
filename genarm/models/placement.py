"""Where a module's weights are computed with, and in which dtype: they may lie elsewhere, or packed."""

from __future__ import annotations

from itertools import chain
from typing import Any

import torch
from torch import Tensor, nn

FLOATING = {torch.bfloat16, torch.float16, torch.float32, torch.float64}


def execution_device(module: nn.Module) -> torch.device:
    """The device that a module's forward pass begins on; meta where nothing was loaded.

    Where accelerate keeps weights elsewhere (on the host, on a disk), they are on the meta device between two passes,
    and its hooks name the device that they are brought to.
    """
    for part in module.modules():
        hook: Any = getattr(part, "_hf_hook", None)
        for one in getattr(hook, "hooks", (hook,)):  # several stand in a SequentialHook
            named = getattr(one, "execution_device", None)
            if named is not None:
                return torch.device(named)
        for tensor in chain(part.parameters(recurse=False), part.buffers(recurse=False)):
            if tensor.device.type != "meta":
                return tensor.device
    return torch.device("meta")


def compute_dtype(module: nn.Module) -> torch.dtype:
    """The dtype that a model's own activations have: that of its first weight which is not quantised."""
    found = (parameter.dtype for parameter in module.parameters() if parameter.dtype in FLOATING)
    config = getattr(module, "config", None)
    dtype = next(found, getattr(config, "dtype", None))
    return dtype if dtype in FLOATING else torch.float32


def adapter_dtype(layer: nn.Module) -> torch.dtype:
    """The dtype of an adapter on a linear layer: the weight's, float32 (as PEFT takes) where that is packed or scaled.

    A quantised layer may have no parameter at all, or one of integers or 8-bit floats, which mean nothing without
    their scale.
    """
    weight = getattr(getattr(layer, "base_layer", layer), "weight", None)
    return weight.dtype if isinstance(weight, Tensor) and weight.dtype in FLOATING else torch.float32


def has_plain_weight(layer: nn.Module) -> bool:
    """Whether a layer's weight is one tensor of floating numbers in memory, to which another may be added."""
    weight = getattr(layer, "weight", None)
    return type(weight) is nn.Parameter and weight.dtype in FLOATING and weight.device.type != "meta"
