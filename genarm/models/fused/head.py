"""From final hidden states to logits: the head's product, on a GPU with the norm before it, and the adapters on it."""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from genarm_kernels import add_rms_norm, skinny_linear
from genarm_kernels.layer.residual import Residual, normed_linear, padded_rows, reads_residual
from genarm_kernels.native.linear import rows_linear
from genarm_kernels.native.products import linear as native_linear

from .row_loras import HeadLora
from .weights import Tensors


class Head:
    """``host``: the product runs in the CPU's operations; ``in_c``: in C, where a token's bits are those it has alone,
    however many there are."""

    def __init__(self, lora: HeadLora | None, eps: float, host: bool) -> None:
        self._lora, self._eps, self._host = lora, eps, host
        self.in_c = False

    def __call__(self, tensors: Tensors, hidden: Tensor, counts: Sequence[int]) -> Tensor:
        """[N, H] -> [N, V]; so many rows are each stream's, one stream's behind the other's."""
        weight, bias = tensors.head, tensors.head_bias
        if self.in_c:
            logits = native_linear(hidden, weight, bias)
        elif self._host:
            logits = rows_linear(hidden, weight, bias)
        else:  # rows that the sampler can load whole, whatever V is
            logits = skinny_linear(hidden, weight, bias, padded_rows(hidden, len(weight)))
        return logits if self._lora is None else self._lora.add_to(logits, hidden, counts)

    def of_residual(self, tensors: Tensors, residual: Residual, counts: Sequence[int]) -> Tensor:
        """The same of the last layer's residual, whose norm is part of the product where that can be."""
        if self._lora is None and reads_residual(len(residual.values), tensors.norm, tensors.head):
            return normed_linear(residual, tensors.norm, self._eps, tensors.head, tensors.head_bias)
        return self(tensors, add_rms_norm(None, residual.values, tensors.norm, self._eps), counts)
