"""A CUDA graph in torch operations on a CPU: what a step launches is recorded once, and replayed on the same tensors.

As on a GPU, Python does not run again: numbers that the recording saw are baked in, results land where they landed, and
what would wait for the device or copy from the host is refused.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten

import genarm_kernels
from genarm.engine import engine, graphs, recording
from genarm.models.fused import network, session, shared
from genarm_kernels.layer.cpu import attend
from genarm_kernels.layer.lora import Lora
from genarm_kernels.layer.sharing import Sharing
from genarm_kernels.native import choice

REFUSED = {"aten::_local_scalar_dense", "aten::nonzero", "aten::lift_fresh", "aten::masked_select", "aten::is_pinned"}
# In torch's deterministic mode a GPU looks at the index.
WRITES = {"aten::index_put", "aten::index_put_", "aten::index_copy", "aten::index_copy_"}


def stands_for_a_kernel() -> bool:
    """Whether this is called from what a GPU has kernels of ours for."""
    frame = sys._getframe()
    while frame.f_back is not None and not frame.f_code.co_filename.endswith("genarm_kernels/layer/cpu.py"):
        frame = frame.f_back
    return frame.f_back is not None


class Recording(TorchDispatchMode):
    """The operations that run inside of it."""

    def __init__(self) -> None:
        super().__init__()
        self.calls: list[tuple[Any, Any, Any, Any]] = []

    def __torch_dispatch__(self, operation: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        name = operation.name()
        indices = tree_flatten(args[1:])[0] if "index" in name else []
        masked = any(isinstance(one, Tensor) and one.dtype == torch.bool for one in indices)
        if name in REFUSED or masked or (name in WRITES and not stands_for_a_kernel()):
            pytest.fail(f"{name} cannot be captured")  # which is no Exception, so that no step runs without a graph
        out = operation(*args, **(kwargs or {}))
        self.calls.append((operation, args, kwargs or {}, out))
        return out

    @torch.no_grad()
    def replay(self) -> None:
        for operation, args, kwargs, out in self.calls:
            again = operation(*args, **kwargs)
            for old, new in zip(tree_flatten(out)[0], tree_flatten(again)[0], strict=True):
                if isinstance(old, Tensor) and old.data_ptr() != new.data_ptr():
                    old.copy_(new)


def capture(step: Callable[[], object], _pool: object, _stream: object) -> Callable[[], object]:
    """In place of ``genarm.engine.graphs.capture``."""
    for _ in range(recording.WARM_UP_STEPS):
        step()
    recorded = Recording()
    with recorded:
        step()
    return recorded.replay


def kernel_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, scale: float, window: int, **_: object
) -> Tensor:
    """decode_attention as the kernel does it: by the lengths on the device alone, nothing behind them read."""
    live = (torch.arange(keys.shape[1]) < lengths[:, None])[:, :, None, None]
    keys, values = torch.where(live, keys, 0), torch.where(live, values, 0)
    return attend(query, keys, values, lengths, scale, window, keys.shape[1], False)


def kernel_shared_attention(
    query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, prefix_keys: Tensor, prefix_values: Tensor,
    sharing: Sharing, scale: float, window: int, **_: object,
) -> Tensor:  # fmt: skip
    """shared_attention as the kernel does it: by what lies on the device alone."""
    at = torch.arange(prefix_keys.shape[1] + keys.shape[1])
    begun, rows = sharing.lengths[:, None], torch.arange(len(keys))[:, None]
    in_prefix = sharing.of_row[:, None].long(), at.clamp(max=prefix_keys.shape[1] - 1)
    behind = rows, (at - begun).clamp(0, keys.shape[1] - 1).long()
    from_prefix = (at < begun)[:, :, None, None]
    both = (
        torch.where(from_prefix, prefix[in_prefix], own[behind])
        for prefix, own in ((prefix_keys, keys), (prefix_values, values))
    )
    return kernel_attention(query, *both, lengths, scale, window)


def kernel_follow_rows(cache: Tensor, origins: Tensor, starts: Tensor, lengths: Tensor) -> None:
    """follow_rows as the kernel does it: nothing read back, where a CPU looks which rows follow another."""
    places = torch.arange(cache.shape[4])
    tails = (places >= starts[:, None]) & (places < lengths[:, None])
    cache.copy_(torch.where(tails[:, None, :, None], cache.index_select(2, origins), cache))


def record_on_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Decoders on a CPU capture their steps."""
    monkeypatch.setattr(engine, "CAPTURING_DEVICES", {"cpu"})
    monkeypatch.setattr(graphs, "capture", capture)
    monkeypatch.setattr(genarm_kernels, "decode_attention", kernel_attention)
    monkeypatch.setattr(genarm_kernels, "shared_attention", kernel_shared_attention)
    for module in (session, shared):
        monkeypatch.setattr(module, "follow_rows", kernel_follow_rows)
    for module in (network, session):  # the pass that a GPU takes
        monkeypatch.setattr(module, "on_host", lambda _device: False)
    for name in ("mask", "target_mask", "dense", "blocks"):  # kernels read adapters and their numbers at every call
        monkeypatch.setattr(Lora, name, property(vars(Lora)[name].func))
    monkeypatch.setattr(choice, "wanted", lambda: False)  # calls of C are not recorded
