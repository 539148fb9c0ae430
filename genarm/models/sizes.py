"""How many parameters a model has, and how much memory there is, before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from huggingface_hub import get_safetensors_metadata
from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError
from safetensors import SafetensorError, safe_open

from ..errors import LoadingError
from .files import hub_answers, model_source
from .loading import full_model

LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def parameters_of(base: str) -> int | None:
    """Parameters in a base's safetensors, by their headers; None where they cannot be read without loading it."""
    try:
        source = model_source(full_model(base))
    except LoadingError:  # loading says what is wrong with it
        return None
    try:
        if Path(source).is_dir():
            return sum(_numbers_in(file) for file in Path(source).glob("*.safetensors"))
        return sum(get_safetensors_metadata(source).parameter_count.values()) if hub_answers() else None
    except (OSError, SafetensorError, HfHubHTTPError, NotASafetensorsRepoError):
        return None


def _numbers_in(file: Path) -> int:
    total = 0
    with safe_open(file, framework="pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118 — not a dictionary
            count = 1
            for size in tensors.get_slice(name).get_shape():
                count *= size
            total += count
    return total


def memory_there(on_cuda: bool) -> int | None:
    """Bytes of the GPU, or of the machine within the limit that its container has; None where neither can be told."""
    if on_cuda:
        return int(torch.cuda.get_device_properties(torch.cuda.current_device()).total_memory)
    try:
        whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError):
        return None
    limits = [Path(path).read_text().strip() for path in LIMITS if Path(path).is_file()]
    return min([whole, *(int(limit) for limit in limits if limit.isdigit())])
