"""Adapters made activated ones, and the literal loop that they are held against: a prompt without its last tokens read
with the adapter off, then token by token with it on, over the cache of the former."""

from __future__ import annotations

import copy
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from families import save_adapter
from peft import PeftModel
from torch import Tensor

from genarm.models.activation import AT_LAST, TOKENS, Activation

CONFIG = "adapter_config.json"


def activated(base: Any, family: str, folder: Path, seed: int, tokens: tuple[int, ...] = (), **settings: Any) -> Path:
    """A random adapter whose configuration says from where on it is awake."""
    save_adapter(base, family, folder, seed, **settings)
    return rewrite(folder, **Activation(tokens).settings())


def rewrite(folder: Path, **settings: Any) -> Path:
    """Other settings in an adapter's configuration; None takes one out."""
    path = folder / CONFIG
    config = {**json.loads(path.read_text()), **settings}
    path.write_text(json.dumps({name: value for name, value in config.items() if value is not None}))
    return folder


def as_ordinary(folder: Path) -> Path:
    """A copy of an adapter that says nothing of where it is awake."""
    copied = folder.with_name(f"{folder.name} ordinary")
    shutil.copytree(folder, copied, dirs_exist_ok=True)
    return rewrite(copied, **dict.fromkeys((TOKENS, AT_LAST)))


class LiteralLoop:
    """What a base with an activated adapter says of a text, one token after the other, by PEFT's own switch."""

    def __init__(self, base: Any, folder: Path) -> None:
        self.model = PeftModel.from_pretrained(copy.deepcopy(base), str(as_ordinary(folder))).eval()

    @torch.no_grad()
    def logits(self, text: Tensor, start: int) -> Tensor:
        """[T - start, V] after each token of ``text`` [T] from ``start`` on, where the adapter wakes."""
        cache, found = None, []
        if start:
            with self.model.disable_adapter():
                cache = self.model(input_ids=text[None, :start], use_cache=True).past_key_values
        for place in range(start, len(text)):
            out = self.model(input_ids=text[None, place : place + 1], past_key_values=cache, use_cache=True)
            cache = out.past_key_values
            found.append(out.logits[0, -1])
        return torch.stack(found)
