"""LoRA on a fused linear layer: the shrinks come out of the layer's own GEMM, the expand goes into what follows it.

    z = x @ [W; A_1; …; A_K]ᵀ          one read of x and of the weights gives the base's output and every shrink
    y[r] = z[r, :N] + B_a(r) h[r]      a(r) is row r's adapter, h[r] its shrinks, B_a with the scaling folded in

A fused layer is T linears that read the same input (q, k and v, say), N output columns in all. Behind the N columns of
z stand the shrinks: adapter a's of target t begin at column N + (a·T + t)·rank.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from dataclasses import dataclass
from functools import cached_property
from math import gcd

import torch
import triton
import triton.language as tl
from torch import Tensor

# Rows up to which a CPU expands in float32: its bfloat16 products take 15 µs to set up, and win with many rows.
FEW_ROWS = 16


@dataclass(frozen=True)
class Lora:
    """The adapters on one fused linear layer, and which row of the batch has which.

    up: [A, N, rank], the B matrices of A adapters, each target's rows below the other's, scaling folded in, zero where
        an adapter has a smaller rank or leaves a target out.
    adapters: [R] int32 on the same device, each row's adapter, −1 for none. Kernels read it at every call; the torch
        path reads it once.
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
        """[R, A·T·rank] bool, whether a column is a shrink of the row's own adapter."""
        owner = torch.arange(self.up.shape[0], device=self.up.device).repeat_interleave(self.shrinks // len(self.up))
        return owner == self.adapters[:, None]

    @cached_property
    def is_finite(self) -> bool:
        """Whether no number of any adapter is such that another row's 0 times it is NaN."""
        return bool(self.up.isfinite().all())

    @cached_property
    def blocks(self) -> Tensor:
        """[N / W, A·rank, W] float32, W the widths' common divisor: `dense` without the zeros between targets."""
        blocks = self.up.view(len(self.up), -1, gcd(*self.widths), self.rank).permute(1, 0, 3, 2)
        return blocks.reshape(len(blocks), -1, blocks.shape[3]).float().contiguous()

    @cached_property
    def block_targets(self) -> Tensor:
        """[N / W], each block's target."""
        counts = torch.tensor(self.widths, device=self.up.device) // self.blocks.shape[2]
        return torch.arange(len(self.widths), device=self.up.device).repeat_interleave(counts)

    @cached_property
    def target_mask(self) -> Tensor:
        """[T, R, A, rank] bool, the columns of `mask` target by target."""
        by_adapter = self.mask.view(len(self.adapters), len(self.up), len(self.widths), self.rank)
        return by_adapter.permute(2, 0, 1, 3).contiguous()


def expand(z: Tensor, lora: Lora | None) -> Tensor:
    """z [R, N + shrinks] -> [R, N], each row with its own adapter's expand added, in torch operations.

    Without ``lora`` z comes back as it is.
    """
    if lora is None:
        return z
    N = lora.up.shape[1]
    if not lora.is_finite:
        return _expand_apart(z[:, :N].clone(), z[:, N:], lora)
    return torch.addmm(z[:, :N], torch.where(lora.mask, z[:, N:], 0.0), lora.dense)


def _expand_apart(total: Tensor, shrinks: Tensor, lora: Lora) -> Tensor:
    """The same adapter by adapter, each on its own rows alone, written over ``total`` [R, N]."""
    for adapter in range(len(lora.up)):
        rows, start = (lora.adapters == adapter).nonzero().flatten(), 0
        for target, width in enumerate(lora.widths):
            first = (adapter * len(lora.widths) + target) * lora.rank
            up = lora.up[adapter, start : start + width].to(total.dtype)
            total[rows, start : start + width] += shrinks[rows, first : first + lora.rank].to(total.dtype) @ up.t()
            start += width
    return total


def expand_few(z: Tensor, lora: Lora) -> Tensor:
    """The same on a CPU: float32 while there are few rows, in a new tensor either way."""
    R, N = z.shape[0], lora.up.shape[1]
    if R > FEW_ROWS:
        return expand(z, lora)
    total = z.clone() if z.dtype == torch.float32 else z.float()
    if not lora.is_finite:
        return _expand_apart(total[:, :N], z[:, N:], lora)
    T, R, A, rank = lora.target_mask.shape
    if T == 1:
        own = torch.where(lora.target_mask.view(R, -1), total[:, N:], 0.0)
        return total[:, :N].addmm_(own, lora.blocks[0])
    # The mask comes first so that the product has its order of columns.
    by_target = total.as_strided((T, R, A, rank), (rank, total.stride(0), T * rank, 1), N)
    shrinks = torch.where(lora.target_mask, by_target, 0.0).view(T, R, A * rank)
    if len(lora.blocks) > T:
        shrinks = shrinks.index_select(0, lora.block_targets)
    added = torch.bmm(shrinks, lora.blocks).transpose(0, 1)
    total = total[:, :N]
    total.view(added.shape).add_(added)
    return total


def check_columns(z: Tensor, widths: tuple[int, ...], lora: Lora | None) -> None:
    """Whether z [R, N + shrinks] is what a fused layer of these targets and adapters gives."""
    N, shape = sum(widths), z.shape
    if len(shape) != 2 or shape[1] != N + (0 if lora is None else lora.shrinks):
        behind = "no shrinks" if lora is None else f"{lora.shrinks} shrinks"
        raise ValueError(f"z has shape {list(shape)}: expected [R, {N} + {behind}], one row per token")
    if z.stride(1) != 1:
        raise ValueError(f"z has strides {z.stride()}: its columns must be next to each other; pass z.contiguous()")
    if lora is not None:
        check_adapters(lora, z, widths)


def check_adapters(lora: Lora, z: Tensor, widths: tuple[int, ...]) -> None:
    """Whether adapters are those of a layer of these targets, for the rows of z."""
    up, adapters, N = lora.up, lora.adapters, sum(widths)
    if lora.widths != widths:
        raise ValueError(f"lora is for targets of {lora.widths} columns: this layer's are {widths}")
    if up.dtype != z.dtype or up.device != z.device or up.shape[1] != N or not up.is_contiguous():
        raise ValueError(
            f"lora.up is {up.dtype} {list(up.shape)} on {up.device}: expected [A, {N}, rank], contiguous, "
            f"{z.dtype} on {z.device} as z"
        )
    if adapters.shape != z.shape[:1] or adapters.dtype != torch.int32 or adapters.device != z.device:
        raise ValueError(
            f"lora.adapters is {adapters.dtype} {list(adapters.shape)} on {adapters.device}: "
            f"expected int32 [{z.shape[0]}] on {z.device}, one adapter per row"
        )


@triton.jit
def expand_columns(z, up, adapter, target, columns, mask, N: tl.constexpr, TARGETS: tl.constexpr, RANK: tl.constexpr):
    """B h of one row at a block of columns of one target, float32; zeros, and nothing read, for adapter −1.

    z: pointer to the row; up: pointer to [A, N, rank]; columns, mask: int32 and bool [C].
    """
    # 32 bytes of a column at a time.
    STEP: tl.constexpr = min(256 // up.dtype.element_ty.primitive_bitwidth, triton.next_power_of_2(RANK))
    total = tl.zeros(columns.shape, tl.float32)
    if adapter >= 0:
        shrinks = z + N + (adapter * TARGETS + target) * RANK
        up += adapter.to(tl.int64) * (N * RANK)
        # Not unrolled: the loads of a second step would not fit the registers.
        for start in range(0, RANK, STEP):
            place = start + tl.arange(0, STEP)
            h = tl.load(shrinks + place, mask=place < RANK, other=0.0).to(tl.float32)
            both = mask[:, None] & (place < RANK)[None, :]
            block = tl.load(up + columns[:, None] * RANK + place[None, :], mask=both, other=0.0)
            total += tl.sum(block.to(tl.float32) * h[None, :], 1)
    return total
