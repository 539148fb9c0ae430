"""One forward pass of a stream's model, the module exactly as it was afterwards, and which prompts go through it
together."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from threading import get_ident
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from genarm_kernels.layer.cpu import may_hide_nan, with_nan

from ..causal import CausalModel, inner_model
from ..turns import turn
from .cache import DoesNotTakePart


class Forward:
    """``model``'s forward pass, with all that it takes to run one looked up once."""

    def __init__(self, model: CausalModel) -> None:
        self.accepts = model.accepts
        self.turn = turn(inner_model(model.module))
        self._module = model.module
        self._parts = list(model.module.modules())
        self._active = model.running()

    @torch.no_grad()
    def __call__(self, ids: Tensor, awake: Tensor | None = None, **inputs: Any) -> Tensor:
        """Ids [B, T] and more of the model's keywords -> its logits [B, T', V]; float32 where they are float64.
        ``awake`` [B, T]: where an activated adapter works, if not everywhere."""
        with self.turn, evaluating(self._parts), self._active(awake):
            logits: Tensor = self._module(input_ids=ids, use_cache=True, **inputs).logits
        return logits.float() if logits.dtype == torch.float64 else logits


def is_compiled(module: nn.Module) -> bool:
    """Whether torch.compile has the module's forward pass, from without or in place."""
    inner = inner_model(module)
    return hasattr(module, "_orig_mod") or getattr(inner, "_compiled_call_impl", None) is not None


class ShownNaN(TorchFunctionMode):
    """Inside the block torch's attention on a CPU gives NaN where it would make 0 of a few scores that are all NaN."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        return _shown(out, *args, **(kwargs or {})) if func is F.scaled_dot_product_attention else out


def _shown(
    out: Tensor, query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *_: Any, **__: Any
) -> Tensor:
    """Attention [..., H, T, E], NaN where a token's query or own key is. Under a mask torch hides none."""
    tokens = query.shape[-2]
    if attn_mask is not None or out.device.type != "cpu" or out.dim() != 4 or key.shape[-2] < tokens:
        return out
    if not may_hide_nan(out):
        return out
    own = key[:, :, -tokens:]
    return with_nan(out.transpose(1, 2), query.transpose(1, 2), own.transpose(1, 2)).transpose(1, 2)


@contextmanager
def evaluating(parts: list[nn.Module]) -> Iterator[None]:
    """Dropout off inside the block; the mode of each of ``parts`` is as it was afterwards."""
    training = [part for part in parts if part.training]
    with ExitStack() as stack:
        for part in training:
            part.training = False
            stack.callback(setattr, part, "training", True)
        yield


def in_passes(rows: Sequence[int], sizes: Sequence[int], tokens: int) -> list[list[int]]:
    """Rows from the shortest to the longest, cut so that a pass, padded to its longest, has at most ``tokens`` tokens
    or a single row."""
    passes: list[list[int]] = []
    for row in rows:
        if passes and (len(passes[-1]) + 1) * sizes[row] <= tokens:
            passes[-1].append(row)
        else:
            passes.append([row])
    return passes


@contextmanager
def at_each_rows(last: Tensor, tokens: int, head: nn.Module) -> Iterator[Callable[[Tensor], Tensor]]:
    """Run the model's head at position ``last`` [n] of each row only, not at all ``tokens`` of them: [n, T, V] logits
    may not fit. -> a function from what the model returned to [n, V]."""
    rows = torch.arange(len(last), device=last.device)
    own, seen = get_ident(), False

    def pick_states(_module: nn.Module, args: tuple[Any, ...]) -> tuple[Any, ...] | None:
        nonlocal seen
        if get_ident() != own or args[0].shape[:-1] != (len(last), tokens):
            return None
        seen = True
        return args[0][rows, last][:, None], *args[1:]

    def pick(logits: Tensor) -> Tensor:
        if logits.shape[:-1] != (len(last), 1 if seen else tokens):
            raise DoesNotTakePart("the logits are not those of every position")
        return logits[:, 0] if seen else logits[rows, last]

    handle = head.register_forward_pre_hook(pick_states)
    try:
        yield pick
    finally:
        handle.remove()
