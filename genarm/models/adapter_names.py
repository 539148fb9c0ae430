"""The names that an adapter's file gives to a model's layers, as the model names them now.

Files keep the names of the day they were saved: of a compiled or wrapped model (`_orig_mod.`, `module.`), or of a
release of transformers that nested its models otherwise (`language_model.model.` was turned about in 4.52). Only a name
that the model does not have is changed, and only into one that it has.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import Any

from torch import nn

try:  # how transformers reads checkpoints of its earlier releases, as PEFT asks it too
    from transformers.conversion_mapping import get_model_conversion_mapping
    from transformers.core_model_loading import WeightRenaming, rename_source_key
except ImportError:
    get_model_conversion_mapping = None  # type: ignore[assignment]

WRAPPER = re.compile(r"(^|\.)(?:_orig_mod|_fsdp_wrapped_module|_checkpoint_wrapped_module|module)(?=\.)")


def renamed(names: Iterable[str], model: nn.Module) -> dict[str, str]:
    """Each name -> the model's own for that layer; a name that leads nowhere stays as it is."""
    there = {name for name, _ in model.named_modules()}
    own: dict[str, str] = {}
    for name in names:
        candidates = iter(()) if name in there else _candidates(name, model)
        own[name] = next((candidate for candidate in candidates if candidate in there), name)
    return own if len(set(own.values())) == len(own) else {name: name for name in own}


def known_as(parameter: str, model: nn.Module) -> str:
    """The same for a parameter's name."""
    layer, _, leaf = parameter.rpartition(".")
    return f"{renamed([layer], model)[layer]}.{leaf}"


def _candidates(name: str, model: Any) -> Iterator[str]:
    """Other names for a layer, likeliest first."""
    bare = WRAPPER.sub(r"\1", name)
    while ".." in bare or bare.startswith("."):
        bare = bare.replace("..", ".").removeprefix(".")
    yield bare
    if get_model_conversion_mapping is not None and hasattr(model, "config"):
        renamings = [one for one in get_model_conversion_mapping(model) if isinstance(one, WeightRenaming)]
        yield rename_source_key(f"{bare}.weight", renamings, [])[0].removesuffix(".weight")
    for pattern, replacement in (getattr(model, "_checkpoint_conversion_mapping", None) or {}).items():
        yield re.sub(pattern, replacement, bare)
