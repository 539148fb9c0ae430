"""What every operation needs once: where its kernels are launched, and how it becomes a node of torch's.

`register` makes an operation that torch.compile, fake tensors and graph capture take as a single node.
"""

# mypy: disable-error-code="no-untyped-call"

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from typing import Any

import torch
import triton

# With TRITON_INTERPRET=1 CPU tensors go through the kernels and stand for device tensors: their values are not read.
INTERPRETED = bool(triton.knobs.runtime.interpret)

_NOWHERE = nullcontext()


def on_device(device: torch.device) -> AbstractContextManager[Any]:
    """A block whose launches go to this device: Triton launches on the current one, whatever the tensors' is."""
    return torch.cuda.device(device) if device.type == "cuda" else _NOWHERE


_library = torch.library.Library("genarm_kernels", "DEF")


def register(schema: str, compute: Callable[..., Any], empty: Callable[..., Any]) -> Callable[..., Any]:
    """Define torch.ops.genarm_kernels.<the schema's name> and return it. Its results carry no grad.

    compute works on any device, and its results share no memory with its arguments. empty takes the same arguments and
    gives results of the same shapes, dtypes and device that hold nothing.

    torch.library.custom_op would do the same at twice the cost of a call.
    """
    name = schema.partition("(")[0]
    _library.define(schema, tags=(torch.Tag.pt2_compliant_tag,))
    op = getattr(torch.ops.genarm_kernels, name).default

    def below_autograd(*arguments: Any) -> Any:
        with torch._C._AutoDispatchBelowAutograd():
            return op(*arguments)

    _library.impl(name, compute, "CompositeExplicitAutograd")
    _library.impl(name, below_autograd, "Autograd")
    torch.library.register_fake(f"genarm_kernels::{name}", empty, lib=_library)
    operation: Callable[..., Any] = op
    return operation
