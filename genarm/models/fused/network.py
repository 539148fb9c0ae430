"""The network of Llama and its like, written once: on a GPU by Triton kernels, on a CPU by torch in the same order.

All streams go through it as one batch of S·B rows, stream-major: row s·B + b is sequence b as stream s sees it. A fused
linear gives the base's output and every adapter's shrink in one product; the expand is added in the element-wise step
that follows. On a GPU a layer is nine kernels, or seven for few rows, where the norms and the sums of the residual are
part of the products beside them.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from genarm_kernels import add_rms_norm, rotary_store, swiglu
from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.layer import cpu
from genarm_kernels.layer.residual import Residual, add_linear, adds_residual, normed_linear, reads_residual
from genarm_kernels.native.linear import rows_linear

from .families import Parts
from .linear import Columns
from .row_loras import NO_LORAS, RowLoras, Segments, expand_segments
from .weights import LayerTensors, Tensors

# layer, query [N, H, D] -> [N, H, D] or more dimensions of as many rows
Attend = Callable[[int, Tensor], Tensor]


def on_host(device: torch.device) -> bool:
    """Whether a pass runs in the CPU's torch operations, on arguments that were checked when it was put together."""
    return device.type == "cpu" and not INTERPRETED


class Network:
    """The layers over caches of theirs. ``caches``: keys and values of each layer, [R, T, H_kv, D] each, of positions
    from ``starts`` [R] int32 on, 0 where that is left out."""

    def __init__(
        self,
        parts: Parts,
        caches: Sequence[tuple[Tensor, Tensor]],
        cos: Tensor,
        sin: Tensor,
        starts: Tensor | None = None,
    ) -> None:
        self._parts = parts
        self._caches = caches
        self._starts = starts
        self._angles = cos, sin
        self._host = on_host(cos.device)
        self._narrow: dict[int, bool] = {}  # rows -> whether they take the narrow way
        steps: tuple[Any, Any, Any] = (add_rms_norm, rotary_store, swiglu)
        if self._host:
            steps = (cpu.add_rms_norm, cpu.rotary_store, cpu.swiglu)
        self._norm, self._rotate, self._activate = steps

    def __call__(
        self,
        tensors: Tensors,
        residual: Tensor,
        positions: Tensor,
        slots: Tensor | None,
        adapters: Sequence[RowLoras] | Segments,
        attend: Attend,
    ) -> Tensor:
        """Every layer over [N, H] tokens at ``positions`` of cache rows ``slots`` -> final hidden states [N, H].

        Without ``slots`` token n is row n's. ``adapters`` are each layer's expands for few tokens, or which of many
        tokens have which adapter, whose expands are then products of their own. ``residual`` is written over.
        """
        norm, eps, z, before = self._norm, self._parts.eps, None, None
        loras, segments = _apart(adapters, len(tensors.layers))
        for index, layer in enumerate(tensors.layers):
            lora = loras[index]
            x = norm(z, residual, layer.attention_norm, eps, before)
            query = self._rotated(linear(x, layer.qkv, segments), index, layer, positions, slots, lora)
            z = linear(attend(index, query).view(len(residual), -1), layer.out, segments)
            x = norm(z, residual, layer.mlp_norm, eps, lora.out)
            x = self._activate(linear(x, layer.gate_up, segments), lora.gate_up)
            z = linear(x, layer.down, segments)
            before = lora.down
        hidden: Tensor = norm(z, residual, tensors.norm, eps, before)
        return hidden

    def is_narrow(self, tensors: Tensors, rows: int) -> bool:
        """Whether so many rows can take the narrow way: every layer's products with the norms and the residual's sums
        inside them."""
        if rows not in self._narrow:
            self._narrow[rows] = not self._host and all(
                layer.qkv.weight.dtype == tensors.embedding.dtype
                and reads_residual(rows, layer.attention_norm, layer.qkv.weight)
                and reads_residual(rows, layer.mlp_norm, layer.gate_up.weight)
                and adds_residual(rows, layer.out.weight)
                and adds_residual(rows, layer.down.weight)
                for layer in tensors.layers
            )
        return self._narrow[rows]

    def narrow(
        self,
        tensors: Tensors,
        residual: Residual,
        positions: Tensor,
        slots: Tensor | None,
        loras: Sequence[RowLoras],
        attend: Attend,
    ) -> None:
        """The same for few rows, where ``is_narrow``, bit for bit in float32: the residual [N, H] becomes the last
        layer's, which the final norm is still to come for."""
        parts = self._parts
        for index, (layer, lora) in enumerate(zip(tensors.layers, loras, strict=True)):
            z = normed_linear(residual, layer.attention_norm, parts.eps, layer.qkv.weight, layer.qkv.bias)
            query = self._rotated(z, index, layer, positions, slots, lora)
            seen = attend(index, query).view(len(query), -1)
            add_linear(residual, seen, layer.out.weight, layer.out.bias, lora.out)
            z = normed_linear(residual, layer.mlp_norm, parts.eps, layer.gate_up.weight, layer.gate_up.bias)
            add_linear(residual, swiglu(z, lora.gate_up), layer.down.weight, layer.down.bias, lora.down)

    def _rotated(
        self, z: Tensor, index: int, layer: LayerTensors, positions: Tensor, slots: Tensor | None, lora: RowLoras
    ) -> Tensor:
        """z of a layer's q, k and v -> its query [N, H, D]; keys and values go to their places in the cache."""
        query: Tensor = self._rotate(
            z,
            *self._angles,
            positions,
            *self._caches[index],
            self._parts.heads,
            lora.qkv,
            slots,
            layer.q_norm,
            layer.k_norm,
            self._parts.eps,
            self._starts,
        )
        return query


def _apart(adapters: Any, layers: int) -> tuple[Sequence[RowLoras], Segments | None]:
    if adapters and isinstance(adapters[0], RowLoras):
        return adapters, None
    return [NO_LORAS] * layers, adapters


def linear(x: Tensor, columns: Columns, segments: Segments | None) -> Tensor:
    """[N, in] -> [N, out + shrinks], or [N, out] with the expands of ``segments`` added."""
    z = rows_linear(x, columns.weight, columns.bias)
    return z if segments is None else expand_segments(z, columns.lora, segments)
