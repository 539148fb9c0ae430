"""LoRA on a fused linear layer: the shrinks come out of the layer's own GEMM, the expand goes into what follows it.

    z = x @ [W; A_1; …; A_K]ᵀ          one read of x and of the weights gives the base's output and every shrink
    y[r] = z[r, :N] + B_a(r) h[r]      a(r) is row r's adapter, h[r] its shrinks, B_a with the scaling folded in

A fused layer is T linears that read the same input (q, k and v, say), N output columns in all. Behind the N columns of
z stand the shrinks: adapter a's of target t begin at column N + (a·T + t)·rank.
"""

from dataclasses import dataclass
from functools import cached_property

import torch
from torch import Tensor


@dataclass(frozen=True)
class Lora:
    """The adapters on one fused linear layer, and which row of the batch has which.

    up: [A, N, rank], the B matrices of A adapters, each target's rows below the other's, scaling folded in, zero where
        an adapter has a smaller rank or leaves a target out.
    adapters: [R] int32 on the same device, each row's adapter, −1 for none.
    widths: output columns of each of the T targets, N in all.
    """

    up: Tensor
    adapters: Tensor
    widths: tuple[int, ...]

    @property
    def rank(self) -> int:
        return self.up.shape[2]

    @property
    def shrinks(self) -> int:
        """Columns of z behind the layer's own output: A·T·rank."""
        return self.up.shape[0] * len(self.widths) * self.rank

    @cached_property
    def dense(self) -> Tensor:
        """[A·T·rank, N]: the same as one matrix from all shrinks to all outputs, for rows masked to their adapter."""
        A, N, rank = self.up.shape
        dense = self.up.new_zeros(A, len(self.widths), rank, N)
        start = 0
        for target, width in enumerate(self.widths):
            dense[:, target, :, start : start + width] = self.up[:, start : start + width].transpose(1, 2)
            start += width
        return dense.view(-1, N)

    @cached_property
    def mask(self) -> Tensor:
        """[R, A·T·rank], 1 where a column is a shrink of the row's own adapter."""
        owner = torch.arange(self.up.shape[0], device=self.up.device).repeat_interleave(self.shrinks // len(self.up))
        return (owner == self.adapters[:, None]).to(self.up.dtype)


def expand(z: Tensor, lora: Lora | None) -> Tensor:
    """z [R, N + shrinks] -> [R, N], each row with its own adapter's expand added, in torch operations.

    Without ``lora`` z comes back as it is.
    """
    if lora is None:
        return z
    N = lora.dense.shape[1]
    return torch.addmm(z[:, :N], z[:, N:] * lora.mask, lora.dense)
