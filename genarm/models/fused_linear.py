"""Linear layers that read the same input, as one matrix with the adapters' A rows behind their own.

    z = x @ [W_1; …; W_T; A]ᵀ    one read of x and of the weights for T linears and every LoRA shrink

The layers' own parameters become views of the matrix: one copy of the weights stays, and the module works as before.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from genarm_kernels.lora import Lora

RANK_MULTIPLE = 16  # whole 16-byte loads, and the width of a tensor-core tile

# One adapter on one fused layer: for each of the T linears A [r, in] and B [out, r], or None where it is left out.
Pairs = Sequence[tuple[Tensor, Tensor] | None]


@dataclass(frozen=True, slots=True)
class Columns:
    """What a forward pass reads: weight [N + shrinks, in], bias as long or None, and the adapters' expands, for no
    rows yet."""

    weight: Tensor
    bias: Tensor | None
    lora: Lora | None


class FusedLinear:
    """T linears over one input. ``fuse`` builds the matrix, ``columns`` gives the part with the first A adapters."""

    def __init__(self, linears: Sequence[nn.Linear]) -> None:
        self.linears = list(linears)
        self.widths = tuple(linear.out_features for linear in linears)
        self._adapters = 0
        self._rank = 0
        self._up: Tensor | None = None  # [A, N, rank]
        self._weight, self._bias = self._own()
        self._seen = self._pointers()

    @property
    def is_current(self) -> bool:
        """Whether the layers' parameters still are the views they were made."""
        return self._seen == self._pointers()

    def fuse(self, adapters: Sequence[Pairs]) -> None:
        """Put A adapters behind the linears' rows, in place of those that were there."""
        N, inputs = sum(self.widths), self.linears[0].in_features
        like = self.linears[0].weight
        rank = max((pair[0].shape[0] for pairs in adapters for pair in pairs if pair), default=0)
        rank = -(-rank // RANK_MULTIPLE) * RANK_MULTIPLE
        targets = len(self.widths)
        height = N + len(adapters) * targets * rank
        weight = like.new_zeros(height, inputs)
        up = like.new_zeros(len(adapters), N, rank)
        start = 0
        for target, (linear, width) in enumerate(zip(self.linears, self.widths, strict=True)):
            weight[start : start + width] = linear.weight.data
            linear.weight.data = weight[start : start + width]
            for index, pairs in enumerate(adapters):
                pair = pairs[target]
                if pair is not None:
                    down, back = pair
                    first = N + (index * targets + target) * rank
                    weight[first : first + len(down)] = down
                    up[index, start : start + width, : len(down)] = back
            start += width
        self._weight = weight
        self._bias = self._joined_bias(height)
        self._adapters, self._rank = len(adapters), rank
        self._up = up if rank else None
        self._seen = self._pointers()

    def columns(self, adapters: int) -> Columns:
        """The layers' own rows and those of the first ``adapters`` adapters."""
        N, targets = sum(self.widths), len(self.widths)
        height = N + adapters * targets * self._rank
        bias = None if self._bias is None else self._bias[:height]
        lora = None
        if adapters and self._up is not None:
            nobody = torch.empty(0, dtype=torch.int32, device=self._up.device)
            lora = Lora(self._up[:adapters], nobody, self.widths)
        return Columns(self._weight[:height], bias, lora)

    def _own(self) -> tuple[Tensor, Tensor | None]:
        """The linears' rows as one matrix: a view where they already lie one behind the other, else a new one."""
        weights = [linear.weight.data for linear in self.linears]
        first = weights[0]
        after = first.data_ptr()
        for weight in weights:
            if weight.data_ptr() != after or not weight.is_contiguous() or not _same_storage(weight, first):
                return self._copied()
            after += weight.numel() * weight.element_size()
        rows = sum(self.widths)
        whole = first.as_strided((rows, first.shape[1]), (first.shape[1], 1))
        return whole, self._joined_bias(rows)

    def _copied(self) -> tuple[Tensor, Tensor | None]:
        like = self.linears[0].weight
        weight = like.new_empty(sum(self.widths), self.linears[0].in_features)
        start = 0
        for linear, width in zip(self.linears, self.widths, strict=True):
            weight[start : start + width] = linear.weight.data
            linear.weight.data = weight[start : start + width]
            start += width
        return weight, self._joined_bias(len(weight))

    def _joined_bias(self, height: int) -> Tensor | None:
        """[height]: the linears' biases, 0 where there is none, or None where none has one."""
        if all(linear.bias is None for linear in self.linears):
            return None
        bias = self.linears[0].weight.new_zeros(height)
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
