"""A decoding step on a CPU: the fused decoder's arithmetic in as few calls of torch as it takes.

Between two matrix products, which stream the weights through the caches, each call of torch starts cold and takes about
15 µs where it takes 3 in a loop. So buffers and their views are made once a session, results are written in place, and
what does not differ from layer to layer (angles, masks, which adapter a row has) is looked up once a step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genarm_kernels.arguments import INTERPRETED
from genarm_kernels.lora import Lora

from .families import Parts
from .fused_linear import Columns
from .fused_weights import LayerTensors, Tensors


class Product:
    """z = x @ [W; A]ᵀ for R rows, and the expands of rows with ``adapters`` [R] int32 added in place.

    Layers alike share one: ``z`` is its buffer, ``out`` [R, N] the view of it behind which the shrinks stand.
    """

    def __init__(self, like: Columns, adapters: Tensor) -> None:
        R, height, dtype = len(adapters), like.weight.shape[0], like.weight.dtype
        self.z = torch.empty(R, height, dtype=dtype)
        N = height if like.lora is None else height - like.lora.shrinks
        self.out = self.z[:, :N]
        self._lora = like.lora
        if like.lora is not None:
            self._prepare(like.lora, adapters, N)

    def _prepare(self, lora: Lora, adapters: Tensor, N: int) -> None:
        R, T, A, rank = len(adapters), len(lora.widths), len(lora.up), lora.rank
        own = (torch.arange(A) == adapters[:, None]).to(self.z.dtype)  # [R, A]
        self._alike = len(set(lora.widths)) == 1
        if self._alike:  # target by target
            self._shrinks = self.z[:, N:].view(R, A, T, rank).permute(2, 0, 1, 3)
            self._mask = own[None, :, :, None].expand(T, R, A, rank).contiguous()
            self._h = torch.empty_like(self._mask)
            self._targets = split(self.out, 1, T).transpose(0, 1)  # [T, R, W]
            self._factors = self._h.view(T, R, A * rank)
        else:
            self._shrinks = self.z[:, N:]
            self._mask = own.repeat_interleave(T * rank, 1)
            self._factors = self._h = torch.empty_like(self._mask)

    def __call__(self, x: Tensor, columns: Columns) -> Tensor:
        """x [R, in] -> ``out`` [R, N]."""
        if columns.bias is None:
            torch.mm(x, columns.transposed, out=self.z)
        else:
            torch.addmm(columns.bias, x, columns.transposed, out=self.z)
        lora = columns.lora
        if lora is not None:
            torch.mul(self._shrinks, self._mask, out=self._h)
            if self._alike:
                self._targets.baddbmm_(self._factors, lora.stacked)
            else:
                self.out.addmm_(self._factors, lora.dense)
        return self.out


class CPUStep:
    """One token a row through every layer. ``cache`` is [L, 2, R, H_kv, T, D], ``lengths`` [R] int32."""

    def __init__(
        self, parts: Parts, tensors: Tensors, adapters: Tensor, cache: Tensor, lengths: Tensor, cos: Tensor, sin: Tensor
    ) -> None:
        first, R, D = tensors.layers[0], len(adapters), parts.head_dim
        self._parts, self._layers, self._norm = parts, tensors.layers, tensors.norm
        self._qkv, self._out = Product(first.qkv, adapters), Product(first.out, adapters)
        self._gate_up, self._down = Product(first.gate_up, adapters), Product(first.down, adapters)
        self._lengths, self._cos, self._sin = lengths, cos, sin
        self._rows = torch.arange(R)
        H, H_kv = parts.heads, parts.kv_heads
        z = split(self._qkv.out, 1, H + 2 * H_kv)
        self._query, self._key = z[:, :H], z[:, H : H + H_kv]
        self._rotated = z[:, : H + H_kv]
        self._grouped = split(self._query, 1, H_kv)
        self._new = split(z[:, H:], 1, 2)  # [R, 2, H_kv, D]
        self._caches = [layer.permute(1, 3, 0, 2, 4) for layer in cache]  # [R, T, 2, H_kv, D] each
        self._keys, self._values = [layer[0] for layer in cache], [layer[1] for layer in cache]
        self._x, self._turned = torch.empty(2, R, H + H_kv, D, dtype=torch.float32).unbind()
        self._x1, self._x2 = self._x.chunk(2, 2)
        self._x_halves = self._x.view(R, H + H_kv, 2, D // 2)
        self._turned_halves = self._turned.view(R, H + H_kv, 2, D // 2)
        self._turned1, self._turned2 = self._turned.chunk(2, 2)
        self._gate, self._up = self._gate_up.out.chunk(2, 1)
        self._activation = torch.empty(self._gate.shape, dtype=z.dtype)

    def __call__(self, residual: Tensor, positions: Tensor, longest: int, even: bool) -> Tensor:
        """residual [R, H] of tokens at ``positions`` [R], written over -> final hidden states [R, H].

        ``longest`` bounds the lengths with the new token; ``even`` says that all are equal to it.
        """
        cos = self._cos.index_select(0, positions)[:, None]
        sin = self._sin.index_select(0, positions)[:, None]
        seen = self._seen(longest, even)
        shape, eps = residual.shape[1:], self._parts.eps
        for index, layer in enumerate(self._layers):
            x = F.rms_norm(residual, shape, layer.attention_norm, eps)
            self._qkv(x, layer.qkv)
            self._turn(layer, cos, sin)
            self._caches[index].index_put_((self._rows, positions), self._new)
            residual.add_(self._out(self._attend(index, longest, *seen[layer.window]), layer.out))
            x = F.rms_norm(residual, shape, layer.mlp_norm, eps)
            self._gate_up(x, layer.gate_up)
            torch.ops.aten.silu.out(self._gate, out=self._activation)
            residual.add_(self._down(self._activation.mul_(self._up), layer.down))
        return F.rms_norm(residual, shape, self._norm, eps)

    def _turn(self, layer: LayerTensors, cos: Tensor, sin: Tensor) -> None:
        """Queries and keys normalised, where the model does that, and rotated by their positions, in place."""
        if layer.q_norm is not None and layer.k_norm is not None:
            D, eps = self._parts.head_dim, self._parts.eps
            self._query.copy_(F.rms_norm(self._query, (D,), layer.q_norm, eps))
            self._key.copy_(F.rms_norm(self._key, (D,), layer.k_norm, eps))
        self._x.copy_(self._rotated)
        torch.mul(self._x_halves, cos[:, :, None], out=self._turned_halves)
        self._turned1.addcmul_(self._x2, sin, value=-1)
        self._turned2.addcmul_(self._x1, sin)
        self._rotated.copy_(self._turned)

    def _attend(self, index: int, longest: int, first: int, mask: Tensor | None) -> Tensor:
        """[R, H·D]: the query heads of a key head are the query tokens of one attention call."""
        keys, values = self._keys[index][:, :, first:longest], self._values[index][:, :, first:longest]
        out = F.scaled_dot_product_attention(self._grouped, keys, values, attn_mask=mask, scale=self._parts.scale)
        return out.reshape(len(out), -1)

    def _seen(self, longest: int, even: bool) -> dict[int, tuple[int, Tensor | None]]:
        """For each window the first position any row sees, and the mask [R, 1, 1, positions] where rows differ."""
        windows = {layer.window for layer in self._layers}
        if even:
            return {window: (max(longest - window, 0) if window else 0, None) for window in windows}
        at = torch.arange(longest)
        lengths = self._lengths[:, None]
        live = at < lengths
        masks = {window: live & (at >= lengths - window) if window else live for window in windows}
        return {window: (0, mask[:, None, None]) for window, mask in masks.items()}


def split(tensor: Tensor, dim: int, parts: int) -> Tensor:
    """A view with one dimension as two, the first of ``parts``."""
    return tensor.view(*tensor.shape[:dim], parts, tensor.shape[dim] // parts, *tensor.shape[dim + 1 :])


def suits(tensors: Tensors) -> bool:
    """Whether a step runs here: on a CPU, layers alike so that they share buffers, and one dtype throughout."""
    norms = [tensors.norm, *(norm for layer in tensors.layers for norm in (layer.attention_norm, layer.mlp_norm))]
    alike = all(_shapes(layer) == _shapes(tensors.layers[0]) for layer in tensors.layers)
    on_cpu = tensors.head.device.type == "cpu" and not INTERPRETED
    return on_cpu and alike and all(norm.dtype == tensors.head.dtype for norm in norms)


def _shapes(layer: LayerTensors) -> list[object]:
    groups = (layer.qkv, layer.out, layer.gate_up, layer.down)
    return [(one.weight.shape, None if one.lora is None else one.lora.up.shape) for one in groups]
