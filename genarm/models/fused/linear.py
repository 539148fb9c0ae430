"""Linear layers that read the same input, as one matrix with the adapters' A rows behind their own.

    z = x @ [W_1; …; W_T; A]ᵀ    one read of x and of the weights for T linears and every LoRA shrink

The layers' own parameters become views of the matrix: one copy of the weights stays, and the module works as before.
Behind the matrix, in the same memory, stand the adapters' B. Nothing else holds that memory: it ends when the
parameters are moved, cast or dropped.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor, nn

from genarm_kernels import Lora

RANK_MULTIPLE = 16  # whole 16-byte loads, and the width of a tensor-core tile
ALIGNMENT = 64  # elements: the B matrices start at such a place


class Pair(NamedTuple):
    """LoRA on one linear layer: y += scale · up (down x), down [r, in], up [out, r]."""

    down: Tensor
    up: Tensor
    scale: float = 1.0


# One adapter on one fused layer: a pair for each of the T linears, or None where it is left out.
Pairs = Sequence[Pair | None]


@dataclass(frozen=True, slots=True)
class Columns:
    """What a forward pass reads: weight [N + shrinks, in], bias as long or None, and the adapters' expands, for no
    rows yet."""

    weight: Tensor
    bias: Tensor | None
    lora: Lora | None


class FusedLinear:
    """T linears over one input. ``lay_out`` builds the matrix, ``columns`` gives the part with the first A adapters."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.linears = list(linears)
        self.widths = tuple(linear.out_features for linear in linears)
        self.N, self.K = sum(self.widths), self.linears[0].in_features
        self._adapters = self._rank = 0
        self._places: list[int] = []

    @property
    def height(self) -> int:
        """Rows of the matrix: the linears' and the adapters' A."""
        return self._height(self._adapters)

    @property
    def is_laid_out(self) -> bool:
        """Whether the layers' parameters still are the views they were made."""
        return self._places == self._found()

    def lay_out(self, adapters: Sequence[Pairs]) -> None:
        """Make room for A adapters behind the linears' rows, in place of those that were there, and put them there."""
        rank = max((pair.down.shape[0] for pairs in adapters for pair in pairs if pair), default=0)
        self._rank = -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE
        self._adapters = len(adapters) if rank else 0
        height = self._height(self._adapters)
        if height > self.N or not self._is_one_matrix():
            memory = self.linears[0].weight.data.new_zeros(self._up_start + self._adapters * self.N * self._rank)
            self._move_to(memory[: height * self.K].view(height, self.K))
        self._join_biases(height)
        self._places = self._found()
        for index, pairs in enumerate(adapters[: self._adapters]):
            self.write(index, pairs)

    def write(self, index: int, pairs: Pairs) -> None:
        """Put adapter ``index`` to its place; its targets and ranks are those it was laid out with."""
        weight, up = self._weight(self._adapters), self._up()
        start = 0
        for target, (width, pair) in enumerate(zip(self.widths, pairs, strict=True)):
            if pair is not None:
                rank, first = len(pair.down), self.N + (index * len(self.widths) + target) * self._rank
                weight[first : first + rank].copy_(pair.down)
                scaled = pair.up if pair.scale == 1.0 else pair.up * pair.scale
                up[index, start : start + width, :rank].copy_(scaled)
            start += width

    def columns(self, adapters: int) -> Columns:
        """The layers' own rows and those of the first ``adapters`` adapters."""
        adapters = min(adapters, self._adapters)
        weight, lora = self._weight(adapters), None
        if adapters:
            nobody = torch.empty(0, dtype=torch.int32, device=weight.device)
            lora = Lora(self._up()[:adapters], nobody, self.widths)
        return Columns(weight, self._bias(len(weight)), lora)

    def _bias(self, height: int) -> Tensor | None:
        """[height], which the linears' biases are parts of, or None where none has one."""
        start = 0
        for linear, width in zip(self.linears, self.widths, strict=True):
            if linear.bias is not None:
                own = linear.bias.data
                return own.as_strided((height,), (1,), own.storage_offset() - start)
            start += width
        return None

    def _height(self, adapters: int) -> int:
        return self.N + adapters * len(self.widths) * self._rank

    @property
    def _up_start(self) -> int:
        return -(-self._height(self._adapters) * self.K // ALIGNMENT) * ALIGNMENT

    def _weight(self, adapters: int) -> Tensor:
        first = self.linears[0].weight.data
        return first.as_strided((self._height(adapters), self.K), (self.K, 1))

    def _up(self) -> Tensor:
        first = self.linears[0].weight.data
        shape = (self._adapters, self.N, self._rank)
        return first.as_strided(shape, (self.N * self._rank, self._rank, 1), first.storage_offset() + self._up_start)

    def _is_one_matrix(self) -> bool:
        """Whether the linears' rows already lie one behind the other."""
        first = self.linears[0].weight.data
        after = first.data_ptr()
        for linear in self.linears:
            weight = linear.weight.data
            if weight.data_ptr() != after or not weight.is_contiguous() or not _same_storage(weight, first):
                return False
            after += weight.numel() * weight.element_size()
        return True

    def _move_to(self, matrix: Tensor) -> None:
        """Make the linears' weights the matrix's first rows."""
        start = 0
        for linear, width in zip(self.linears, self.widths, strict=True):
            matrix[start : start + width] = linear.weight.data
            linear.weight.data = matrix[start : start + width]
            start += width

    def _join_biases(self, height: int) -> None:
        """Make the linears' biases parts of [height] zeros; one that has none keeps none."""
        if all(linear.bias is None for linear in self.linears):
            return
        bias = self.linears[0].weight.data.new_zeros(height)
        start = 0
        for linear, width in zip(self.linears, self.widths, strict=True):
            if linear.bias is not None:
                bias[start : start + width] = linear.bias.data
                linear.bias.data = bias[start : start + width]
            start += width

    def _found(self) -> list[int]:
        """Where the parameters lie, and in how much memory."""
        tensors = [tensor for linear in self.linears for tensor in (linear.weight, linear.bias) if tensor is not None]
        memory = self.linears[0].weight.untyped_storage()
        return [memory.data_ptr(), memory.nbytes(), *(tensor.data_ptr() for tensor in tensors)]


def _same_storage(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
