"""The network on a CPU by the C kernels, a step in one call: the fused decoder's tensors as they take them."""

from __future__ import annotations

import torch
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.layer.sharing import Sharing
from genarm_kernels.native.choice import takes
from genarm_kernels.native.decode import DecodeStep, Layer, Product

from .families import Parts
from .linear import Columns
from .weights import LayerTensors, Tensors


def steps_in_c(dtype: torch.dtype, device: torch.device) -> bool:
    """Whether steps of models of this dtype run in C there."""
    return not INTERPRETED and takes(dtype, device)


def native_step(
    parts: Parts, tensors: Tensors, adapters: Tensor, cache: Tensor, lengths: Tensor, cos: Tensor, sin: Tensor,
    sharing: Sharing | None = None, prefixes: Tensor | None = None,
) -> DecodeStep | None:  # fmt: skip
    """A step of R rows with ``adapters`` [R] int32, None where torch is to run it.

    ``cache`` is [L, 2, R, H_kv, T, D]; where the tokens stand is read from ``lengths`` [R] int32, them included.
    ``prefixes`` [L, 2, P, H_kv, T_p, D] hold what ``sharing`` says that rows begin with.
    """
    if not steps_in_c(tensors.head.dtype, tensors.head.device):
        return None
    layers = [_layer(layer) for layer in tensors.layers]
    return DecodeStep(
        layers, tensors.norm.contiguous(), parts.heads, adapters, cache, lengths, cos, sin, parts.eps, parts.scale,
        sharing, prefixes,
    )  # fmt: skip


def _layer(layer: LayerTensors) -> Layer:
    norms = (layer.attention_norm, layer.mlp_norm, layer.q_norm, layer.k_norm)
    attention, mlp, q, k = (None if norm is None else norm.contiguous() for norm in norms)
    assert attention is not None and mlp is not None
    return Layer(attention, mlp, q, k, layer.window, *map(_product, layer.products))


def _product(columns: Columns) -> Product:
    lora = columns.lora
    widths = (len(columns.weight),) if lora is None else lora.widths
    return Product(columns.weight, columns.bias, lora, widths)
