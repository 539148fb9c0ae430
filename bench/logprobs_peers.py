"""What the log-probability suite compares, each at its best settings (docs/benchmarks.md).

A way takes hidden states, the head, token ids and a grad a token, and gives log p of the tokens [N] and the
gradients of what requires one.
"""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec

import torch
import torch.nn.functional as F
from torch import Tensor

from genarm_kernels import token_logprobs

Op = Callable[[Tensor, Tensor, Tensor], Tensor]


def plain(hidden: Tensor, lm_head: Tensor, token_ids: Tensor) -> Tensor:
    """All logits, then cross-entropy in float32."""
    return -F.cross_entropy(F.linear(hidden, lm_head).float(), token_ids, reduction="none")


def liger(reduction: str) -> Op:
    """Liger's fused linear cross-entropy; a sum of tokens lets it take gradients as the forward goes."""
    function = import_module("liger_kernel.ops.fused_linear_cross_entropy").LigerFusedLinearCrossEntropyFunction
    return lambda hidden, lm_head, token_ids: (
        -function.apply(hidden, lm_head, token_ids, None, None, -100, 0.0, 0.0, reduction)[0]
    )


def compiled() -> Op:
    # After a few recompilations of one function torch.compile falls back to eager without a word.
    torch.compiler.reset()
    return torch.compile(plain, fullgraph=True, dynamic=False)


BUILDERS: dict[str, Callable[[], Op]] = {
    "ours": lambda: token_logprobs,
    "plain": lambda: plain,
    "compiled": compiled,
    "liger": lambda: liger("none"),
    "liger-sum": lambda: liger("sum"),
}


def missing(way: str, device: torch.device) -> str | None:
    """Why a way cannot be measured here, if it cannot."""
    if way in ("ours", "plain"):
        return None
    if way.startswith("liger") and find_spec("liger_kernel") is None:
        return "liger-kernel is not installed (pip install liger-kernel)"
    return None if device.type == "cuda" else f"{way} is measured on a CUDA device"


def run(op: Op, hidden: Tensor, lm_head: Tensor, token_ids: Tensor, mode: str, grads: Tensor) -> list[Tensor]:
    """log p, or their sum, and the gradients that the mode asks for."""
    if mode == "forward":
        with torch.no_grad():
            return [op(hidden, lm_head, token_ids)]
    leaves = [hidden.detach().requires_grad_()]
    head = lm_head.detach().requires_grad_(mode == "trained")
    leaves += [head] if mode == "trained" else []
    logprobs = op(leaves[0], head, token_ids)
    return [logprobs.detach(), *torch.autograd.grad(logprobs, leaves, grads if logprobs.ndim else None)]
