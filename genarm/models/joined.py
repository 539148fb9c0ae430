"""An adapter made a part of its model, as `--base` of a LoRA folder means it."""

from __future__ import annotations

import warnings
from pathlib import Path
from textwrap import shorten
from typing import Any

import torch
from peft import PeftModel
from torch import nn

from ..errors import LoadingError, UnsupportedAdapterError
from .activation import read_activation, refuse_activated
from .adapters import CURE, LoraAdapter, check_task, read_adapter
from .files import ADAPTER_FILES, read_json, read_safetensors
from .placement import execution_device, has_plain_weight


@torch.no_grad()
def join(model: nn.Module, folder: Path, name: str) -> nn.Module:
    """``model`` with the adapter in ``folder``, without layers of PEFT; it goes by ``name`` from here on.

    Merged where every layer's weight is a plain tensor of floating numbers in memory, by PEFT, which merges more than
    plain LoRA; else plain LoRA by hooks that stay on the layers, so that nothing is rounded anew. A warning says which.
    """
    own: Any = model
    config, below = read_json(folder / ADAPTER_FILES[0]), own.name_or_path
    check_task(folder, config)
    refuse_activated(
        name,
        read_activation(folder, config),
        "a model that it is a part of would have it on everywhere",
        f"name the model it is on ({below}) instead, and the adapter as a reward model",
    )
    adapter = _plain(folder)
    fitted = None if adapter is None else adapter.fit(own)
    merges = all(has_plain_weight(layer) for layer in _layers(own, fitted))
    if merges:
        own = _merged(own, folder, name)
    elif fitted is None:
        raise UnsupportedAdapterError(
            f"{name}: more than plain LoRA, and {below} is quantised or offloaded, where only that can be added: {CURE}"
        )
    else:
        for layer, hook in fitted.hooks(own):
            layer.register_forward_hook(hook)
    own.name_or_path = own.config._name_or_path = name
    how = "merged into" if merges else "added by hooks on the layers of"
    warnings.warn(f"{name} is an adapter: the model is {below} with it, {how} the weights", stacklevel=4)
    joined: nn.Module = own.eval()
    return joined


def _plain(folder: Path) -> LoraAdapter | None:
    """The adapter where it is plain LoRA, None where it is more."""
    try:
        return read_adapter(folder)
    except UnsupportedAdapterError:
        read_safetensors(folder / ADAPTER_FILES[1])  # which refuses pickled weights
        return None


def _layers(model: nn.Module, fitted: LoraAdapter | None) -> list[nn.Module]:
    """The layers that an adapter changes: all with a weight where it is not known."""
    if fitted is not None:
        return [model.get_submodule(name) for name in fitted.layers]
    return [part for part in model.modules() if hasattr(part, "in_features") or hasattr(part, "weight")]


def _merged(model: Any, folder: Path, name: str) -> Any:
    try:
        trainable = [parameter for parameter in model.parameters() if parameter.requires_grad]
        wrapped: Any = PeftModel.from_pretrained(model, folder, torch_device=str(execution_device(model)))
        merged = wrapped.merge_and_unload(safe_merge=True)
    except Exception as error:  # PEFT's own, of any kind
        text = shorten(str(error), 160, placeholder=" …") or type(error).__name__
        raise LoadingError(
            f"{name}: PEFT cannot make this adapter a part of {model.name_or_path} ({text}): merge it where it was "
            "trained and pass the full model"
        ) from error
    for parameter in trainable:  # PEFT froze the model for its adapter
        parameter.requires_grad_(True)
    return merged
