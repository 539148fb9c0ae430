"""Files of models and adapters, local or from the hub: found, and read with errors that say what to do."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from types import MappingProxyType
from typing import Any
from urllib.parse import urlparse

from huggingface_hub import constants
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from transformers.utils.hub import cached_file

from ..errors import LoadingError, UnsafeWeightsError

ADAPTER_FILES = ("adapter_config.json", "adapter_model.safetensors")
# What transformers' cached_file takes: token, revision, cache_dir, local_files_only, force_download.
HubOptions = Mapping[str, Any]
NO_OPTIONS: HubOptions = MappingProxyType({})


def is_adapter(name: str, hub: HubOptions = NO_OPTIONS) -> bool:
    """Whether a folder or hub id holds a PEFT adapter rather than a full model."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return (folder / ADAPTER_FILES[0]).is_file() or bool(_named_adapters(folder))
    return _hub_file(name, ADAPTER_FILES[0], hub) is not None


def adapter_folder(name: str, hub: HubOptions = NO_OPTIONS) -> Path:
    """The folder that holds an adapter's two files, fetched from the hub for a hub id.

    PEFT puts an adapter that has a name of its own into a folder of that name inside the one it is given: the only one
    there is taken.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        named = [] if (folder / ADAPTER_FILES[0]).is_file() else _named_adapters(folder)
        if len(named) > 1:
            raise LoadingError(f"{name}: holds several adapters: pass one of {', '.join(map(str, named))}")
        return named[0] if named else folder
    found = [_hub_file(name, file, hub) for file in ADAPTER_FILES]
    if found[0] is None:
        raise LoadingError(f"{name}: no such folder, and no adapter of that name on the hub: check the path")
    return Path(found[0]).parent


def _named_adapters(folder: Path) -> list[Path]:
    """The adapters in folders inside one that is no model."""
    return [] if (folder / "config.json").is_file() else sorted(p.parent for p in folder.glob(f"*/{ADAPTER_FILES[0]}"))


def model_source(name: str, hub: HubOptions = NO_OPTIONS) -> str:
    """What to load a model from: a folder or a hub id as it is, or without a network the folder the id is cached in."""
    folder = Path(name).expanduser()
    if folder.is_dir():
        return str(folder)
    if hub_answers():
        return name
    cached = _hub_file(name, "config.json", hub)
    if cached is None:
        raise LoadingError(f"{name}: no such folder, not in the cache, and the hub cannot be reached: check the path")
    return str(Path(cached).parent)


def read_json(path: Path) -> dict[str, Any]:
    """A JSON object from a file."""
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise LoadingError(f"{path}: no such file: is this the folder that save_pretrained wrote?") from None
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise LoadingError(f"{path}: cannot be read as JSON ({error}): copy or save it again") from None
    if not isinstance(value, dict):
        raise LoadingError(f"{path}: holds a {type(value).__name__}, not a JSON object: copy or save it again")
    return value


def read_safetensors(path: Path) -> dict[str, Tensor]:
    """All tensors of a safetensors file, on the CPU. Pickled weights are refused."""
    if not path.is_file():
        refuse_pickled(path.parent)
        raise LoadingError(f"{path}: no such file: is this the folder that save_pretrained wrote?")
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise LoadingError(f"{path}: corrupt or not safetensors ({error}): copy or save it again") from None


def refuse_pickled(folder: Path) -> None:
    """Raise UnsafeWeightsError if the folder holds pickled weights."""
    pickled = sorted(file for ending in ("*.bin", "*.pt", "*.pth") for file in folder.glob(ending))
    if pickled:
        raise UnsafeWeightsError(
            f"{pickled[0]}: pickled weights can run code when loaded and are not read: save them as safetensors "
            "(save_pretrained(..., safe_serialization=True))"
        )


@cache
def hub_answers() -> bool:
    """Whether the hub can be asked at all. Without a network each look-up would be retried for most of a minute."""
    if constants.HF_HUB_OFFLINE:
        return False
    if any(os.environ.get(name) for name in ("HTTPS_PROXY", "https_proxy", "ALL_PROXY", "all_proxy")):
        return True
    try:
        socket.getaddrinfo(urlparse(constants.ENDPOINT).hostname, None)
    except OSError:
        return False
    return True


def _hub_file(name: str, file: str, hub: HubOptions) -> str | None:
    options = {**hub, "local_files_only": bool(hub.get("local_files_only")) or not hub_answers()}
    try:
        return cached_file(
            name,
            file,
            **options,
            _raise_exceptions_for_gated_repo=False,
            _raise_exceptions_for_missing_entries=False,
            _raise_exceptions_for_connection_errors=False,
        )
    except (OSError, ValueError):
        return None
