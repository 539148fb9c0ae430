"""What the log-probability suite measures: its grid, and the ways it compares, each at its best (docs/benchmarks.md).

A way takes hidden states, the head, token ids and a grad for every token, and gives log p of the tokens [N] and the
gradients of what requires one.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from itertools import product

import torch
import torch.nn.functional as F
from torch import Tensor

from genarm_kernels import token_logprobs

Op = Callable[[Tensor, Tensor, Tensor], Tensor]
MODES = ("forward", "frozen", "trained")
# Products of the head that a mode cannot do without: logits; and d hidden; and d head.
PRODUCTS = {"forward": 1, "frozen": 2, "trained": 3}
WAYS = ("ours", "plain", "compiled", "liger", "liger-sum")
FOCUS = 128256


@dataclass(frozen=True, slots=True)
class Case:
    """One shape in one mode: log p alone, with the gradient of hidden states, and with that of the head too."""

    N: int
    H: int
    V: int
    dtype: torch.dtype
    mode: str
    full: bool

    @property
    def ways(self) -> tuple[str, ...]:
        """What compiles anew for every shape keeps to one vocabulary."""
        return tuple(way for way in WAYS if way != "compiled" or self.V == FOCUS)

    @property
    def name(self) -> str:
        return f"N{self.N}-H{self.H}-V{self.V}-{str(self.dtype).removeprefix('torch.')}-{self.mode}"


def gpu_cases() -> list[Case]:
    return [
        Case(N, 4096, V, torch.bfloat16, mode, full=V == 151936 or (V == 32000 and mode == "forward"))
        for V, N, mode in product((FOCUS, 32000, 151936), (4096, 16384), MODES)
    ]


def cpu_cases() -> list[Case]:
    return [
        Case(N, H, V, dtype, mode, full=H == 1024 or N * V > 2**26)
        for dtype, H, N, V, mode in product(
            (torch.float32, torch.bfloat16), (256, 1024), (512, 2048), (4096, 32000, FOCUS), MODES
        )
    ]


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
