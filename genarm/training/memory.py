"""What a run needs at least, against what the machine has, before anything is loaded."""

from __future__ import annotations

import os
from pathlib import Path

import torch
from huggingface_hub import get_safetensors_metadata
from huggingface_hub.errors import HfHubHTTPError, NotASafetensorsRepoError
from safetensors import SafetensorError, safe_open

from ..errors import GenARMError, LoadingError
from ..models.files import hub_answers, model_source
from ..models.loading import full_model
from .settings import TrainingSettings

GIB = 1 << 30
# Bytes per parameter that is trained: its float32 value, its gradient, and AdamW's two moments.
TRAINED = 16
FOUR_BITS = 0.56  # NF4 with quantised scales
LIMITS = ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory/memory.limit_in_bytes")


def check_memory(settings: TrainingSettings) -> None:
    """Raises GenARMError, with the sum, where the weights and what AdamW keeps of them cannot fit; what a forward pass
    keeps comes on top and is not counted. Nothing is checked where the size of the base cannot be told."""
    count, there = parameters_of(settings.base), memory_there(settings.on_cuda)
    if count is None or there is None:
        return
    per_parameter, parts = bytes_per_parameter(settings)
    needed = count * per_parameter
    if needed <= there:
        return
    where = "this GPU has" if settings.on_cuda else "this machine has"
    cures = ["take a smaller base"]
    if not settings.rank:
        cures.insert(0, "train an adapter (--rank 8)")
    elif not settings.load_in_4bit:
        cures.insert(0, "pass --load-in-4bit")
    raise GenARMError(
        f"{settings.base} has {count / 1e9:.2f} billion parameters, and training takes {per_parameter:g} bytes for "
        f"each of them ({parts}), {needed / GIB:.1f} GiB before any forward pass; {where} {there / GIB:.1f} GiB. "
        f"Models are not sharded over GPUs: {', or '.join(cures)}"
    )


def bytes_per_parameter(settings: TrainingSettings) -> tuple[float, str]:
    """What one parameter of the base takes, and what that is made of."""
    if not settings.rank:
        reference = 4 if settings.kind == "dpo" else 0
        words = "float32 weight 4, gradient 4, AdamW's moments 8" + (", DPO's reference 4" if reference else "")
        return TRAINED + reference, words
    if settings.load_in_4bit:
        return FOUR_BITS, "4 bits and their scales"
    return (2, "frozen, in bfloat16") if settings.bf16 else (4, "frozen, in float32")


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
