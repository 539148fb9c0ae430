"""What a decoder is made with, checked before anything is built."""

from __future__ import annotations

from pathlib import Path
from typing import Literal, get_args

import torch
from torch import nn

from .errors import InvalidArgumentError, UnsupportedModelError
from .models.fused.attention import AttentionName
from .models.fused.flash import why_not

EngineName = Literal["auto", "eager", "hf"]


def check_base(model: object) -> None:
    """A loaded module with weights."""
    if not isinstance(model, nn.Module):
        raise InvalidArgumentError(
            f"base_model is a {type(model).__name__}: pass a loaded model, or a path to from_pretrained"
        )
    if next(model.parameters(), None) is None:
        raise UnsupportedModelError(
            f"base_model ({type(model).__name__}) has no weights: pass an AutoModelForCausalLM or a PeftModel"
        )


def check_name(model: object) -> None:
    """A path or hub id."""
    if not isinstance(model, str | Path):
        raise InvalidArgumentError(
            f"from_pretrained takes a path or hub id, not a {type(model).__name__}: use GuidedDecoder(model)"
        )


def check_limits(max_batch_size: object, max_length: object) -> None:
    """Both count something, or are None; a batch size may be "auto"."""
    for name, value in (("max_batch_size", max_batch_size), ("max_length", max_length)):
        if value is None or (name == "max_batch_size" and value == "auto"):
            continue
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            extra = ", 'auto'" if name == "max_batch_size" else ""
            raise InvalidArgumentError(f"{name} is {value!r}: pass an integer of at least 1{extra}, or None")


def check_paths(engine: object, attention: object, dtype: torch.dtype, device: torch.device) -> None:
    """Names that there are, of what is installed and runs such a base."""
    for name, value, choices in (("engine", engine, EngineName), ("attention", attention, AttentionName)):
        if value not in get_args(choices):
            raise InvalidArgumentError(f"{name} is {value!r}: pass one of {', '.join(map(repr, get_args(choices)))}")
    if attention == "kernel":
        return
    if (reason := why_not()) is not None:
        raise InvalidArgumentError(
            f"attention is 'flash-attn', and {reason}: install flash-attn for this torch, or leave it at 'kernel'"
        )
    if device.type != "cuda" or dtype not in (torch.bfloat16, torch.float16):
        raise InvalidArgumentError(
            f"attention is 'flash-attn', which takes bfloat16 and float16 on CUDA, and the base is {dtype} on "
            f"{device}: leave it at 'kernel'"
        )
