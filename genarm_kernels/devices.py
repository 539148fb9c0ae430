"""Where a kernel is launched."""

from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch

_NOWHERE = nullcontext()


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """A block whose launches go to this device: Triton launches on the current one, whatever the tensors' is."""
    return torch.cuda.device(device) if device.type == "cuda" else _NOWHERE
