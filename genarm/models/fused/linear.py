"""Linear layers that read the same input, as one matrix with the adapters' A rows behind their own.

    z = x @ [W_1; …; W_T; A]ᵀ    one read of x and of the weights for T linears and every LoRA shrink

The layers' own parameters become views of the matrix: one copy of the weights stays, and the module works as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genarm_kernels.layer.lora import Lora

RANK_MULTIPLE = 16  # whole 16-byte loads, and the width of a tensor-core tile

# One adapter on one fused layer: for each of the T linears A [r, in] and B [out, r], or None where it is left out.
Pair = tuple[Tensor, Tensor] | None
Pairs = Sequence[Pair]


@dataclass(frozen=True, slots=True)
class Columns:
    """What a forward pass reads: weight [N + shrinks, in], bias as long or None, and the adapters' expands, for no
    rows yet."""

    weight: Tensor
    bias: Tensor | None
    lora: Lora | None
    transposed: Tensor  # the weight, [in, N + shrinks]


class FusedLinear:
    """T linears over one input. ``fuse`` builds the matrix, ``columns`` gives the part with the first A adapters."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.linears = list(linears)
        self.widths = tuple(linear.out_features for linear in linears)
        self._rank = 0
        self._weight: Tensor | None = None
        self._bias: Tensor | None = None
        self._up: Tensor | None = None  # [A, N, rank]
        self._seen: list[int] = []
        self._columns: dict[int, Columns] = {}

    @property
    def is_current(self) -> bool:
        """Whether the layers' parameters still are the views they were made."""
        return self._seen == self._pointers()

    def fuse(self, adapters: Sequence[Pairs]) -> list[list[Pair]]:
        """Put A adapters behind the linears' rows, in place of those that were there -> the same as views of these."""
        N, like, targets = sum(self.widths), self.linears[0].weight.data, len(self.widths)
        rank = max((pair[0].shape[0] for pairs in adapters for pair in pairs if pair), default=0)
        rank = -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE
        height = N + len(adapters) * targets * rank
        weight = self._in_place() if height == N else None
        if weight is None:
            weight = like.new_empty(height, like.shape[1])
            weight[N:] = 0
            self._move_to(weight)
        up = like.new_zeros(len(adapters), N, rank)
        shrinks = weight[N:].view(len(adapters), targets, rank, like.shape[1])
        starts = [sum(self.widths[:target]) for target in range(targets)]
        kept: list[list[Pair]] = []
        for index, pairs in enumerate(adapters):
            kept.append([None] * targets)
            for target, pair in enumerate(pairs):
                if pair is not None:
                    own = slice(starts[target], starts[target] + self.widths[target])
                    down, back = shrinks[index, target, : len(pair[0])], up[index, own, : len(pair[0])]
                    down.copy_(pair[0])
                    back.copy_(pair[1])
                    kept[index][target] = down, back
        self._weight, self._up, self._rank = weight, up if rank else None, rank
        self._bias = self._joined_bias(height)
        self._seen = self._pointers()
        self._columns.clear()
        return kept

    def columns(self, adapters: int) -> Columns:
        """The layers' own rows and those of the first ``adapters`` adapters, one object until the next ``fuse``."""
        if adapters not in self._columns:
            self._columns[adapters] = self._view(adapters)
        return self._columns[adapters]

    def _view(self, adapters: int) -> Columns:
        assert self._weight is not None, "fuse() comes first"
        height = sum(self.widths) + adapters * len(self.widths) * self._rank
        bias = None if self._bias is None else self._bias[:height]
        lora = None
        if adapters and self._up is not None:
            nobody = torch.empty(0, dtype=torch.int32, device=self._up.device)
            lora = Lora(self._up[:adapters], nobody, self.widths)
        weight = self._weight[:height]
        return Columns(weight, bias, lora, weight.t())

    def _in_place(self) -> Tensor | None:
        """The linears' rows as one matrix where they already lie one behind the other."""
        first = self.linears[0].weight.data
        after = first.data_ptr()
        for linear in self.linears:
            weight = linear.weight.data
            if weight.data_ptr() != after or not weight.is_contiguous() or not _same_storage(weight, first):
                return None
            after += weight.numel() * weight.element_size()
        return first.as_strided((sum(self.widths), first.shape[1]), (first.shape[1], 1))

    def _move_to(self, matrix: Tensor) -> None:
        """Make the linears' weights the matrix's first rows."""
        start = 0
        for linear, width in zip(self.linears, self.widths, strict=True):
            matrix[start : start + width] = linear.weight.data
            linear.weight.data = matrix[start : start + width]
            start += width

    def _joined_bias(self, height: int) -> Tensor | None:
        """[height]: the linears' biases, 0 where there is none, or None where none has one."""
        if all(linear.bias is None for linear in self.linears):
            return None
        bias = self.linears[0].weight.data.new_zeros(height)
        start = 0
        for linear, width in zip(self.linears, self.widths, strict=True):
            if linear.bias is not None:
                bias[start : start + width] = linear.bias.data
                linear.bias.data = bias[start : start + width]
            start += width
        return bias

    def _pointers(self) -> list[int]:
        tensors = [tensor for linear in self.linears for tensor in (linear.weight, linear.bias) if tensor is not None]
        return [tensor.data_ptr() for tensor in tensors]


def _same_storage(one: Tensor, other: Tensor) -> bool:
    return one.untyped_storage().data_ptr() == other.untyped_storage().data_ptr()
