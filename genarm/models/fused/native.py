"""One decoding step on a CPU by the C kernels: the fused decoder's tensors as genarm_kernels.native has them."""

from __future__ import annotations

from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.native.decode import DecodeStep, Layer, Product, takes

from .families import Parts
from .linear import Columns
from .weights import LayerTensors, Tensors


class NativeStep:
    """One token a row through every layer. ``cache`` is [L, 2, R, H_kv, T, D], ``lengths`` [R] int32."""

    def __init__(
        self, parts: Parts, tensors: Tensors, adapters: Tensor, cache: Tensor, lengths: Tensor, cos: Tensor, sin: Tensor
    ) -> None:
        layers = [_layer(layer) for layer in tensors.layers]
        self._step = DecodeStep(
            layers, tensors.norm.contiguous(), parts.heads, adapters, cache, lengths, cos, sin, parts.eps, parts.scale
        )
        self._length = cache.shape[4]

    def __call__(self, residual: Tensor, positions: Tensor, longest: int, even: bool) -> Tensor:
        """residual [R, H] -> final hidden states [R, H]; where the tokens stand is read from ``lengths``.

        Raises:
            IndexError: where ``longest`` is more than the cache holds.
        """
        if longest > self._length:
            raise IndexError(f"a row of {longest} tokens does not fit a cache of {self._length}")
        return self._step(residual)


def suits(tensors: Tensors) -> bool:
    """Whether a step runs here."""
    return not INTERPRETED and takes(tensors.head.dtype, tensors.head.device)


def _layer(layer: LayerTensors) -> Layer:
    products = [_product(columns) for columns in (layer.qkv, layer.out, layer.gate_up, layer.down)]
    norms = (layer.attention_norm, layer.mlp_norm, layer.q_norm, layer.k_norm)
    attention, mlp, q, k = (None if norm is None else norm.contiguous() for norm in norms)
    assert attention is not None and mlp is not None
    return Layer(attention, mlp, q, k, layer.window, *products)


def _product(columns: Columns) -> Product:
    lora = columns.lora
    widths = (len(columns.weight),) if lora is None else lora.widths
    return Product(columns.weight, columns.bias, lora, widths)
