"""A decoding step on a CPU: the fused decoder's arithmetic in as few calls of torch as it takes.

Between two matrix products, which stream the weights through the caches, each call of torch starts cold and takes about
15 µs where it takes 3 in a loop. So buffers and their views are made once a session, results are written in place, and
what does not differ from layer to layer (angles, masks, which adapter a row has) is looked up once a step.
"""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.layer.lora import Lora

from .families import Parts
from .linear import Columns
from .weights import LayerTensors, Tensors


class Product:
    """z = x @ [W; A]ᵀ for R rows, and the expands of rows with ``adapters`` [R] int32 added in place.

    Layers alike share one: ``z`` is its buffer, ``out`` [R, N] the view of it behind which the shrinks stand.
    """

    def __init__(self, like: Columns, adapters: Tensor) -> None:
        R, height, dtype = len(adapters), like.weight.shape[0], like.weight.dtype
        self.z = torch.empty(R, height, dtype=dtype)
        N = height if like.lora is None else height - like.lora.shrinks
        self.out = self.z[:, :N]
        if like.lora is not None:
            self._prepare(like.lora, adapters, N)

    def _prepare(self, lora: Lora, adapters: Tensor, N: int) -> None:
        R, T, A, rank = len(adapters), len(lora.widths), len(lora.up), lora.rank
        own = (torch.arange(A) == adapters[:, None]).float()  # [R, A]
        self._by_target = T > 1 and len(set(lora.widths)) == 1
        if self._by_target:
            own = own.to(self.z.dtype)
            self._shrinks = self.z[:, N:].view(R, A, T, rank).permute(2, 0, 1, 3)
            self._mask = own[None, :, :, None].expand(T, R, A, rank).contiguous()
            self._h = torch.empty_like(self._mask)
            self._targets = split(self.out, 1, T).transpose(0, 1)  # [T, R, W]
            self._factors = self._h.view(T, R, A * rank)
        else:
            self._shrinks = self.z[:, N:]
            self._mask = own.repeat_interleave(T * rank, 1)
            self._h = torch.empty_like(self._mask)
            self._added = torch.empty(R, N, dtype=torch.float32)

    def __call__(self, x: Tensor, columns: Columns) -> Tensor:
        """x [R, in] -> ``out`` [R, N]."""
        if columns.bias is None:
            torch.mm(x, columns.transposed, out=self.z)
        else:
            torch.addmm(columns.bias, x, columns.transposed, out=self.z)
        lora = columns.lora
        if lora is not None:
            torch.mul(self._shrinks, self._mask, out=self._h)
            if self._by_target:
                self._targets.baddbmm_(self._factors, lora.stacked)
            else:  # in float32, whose small products take a third of the time to start
                self.out.add_(torch.mm(self._h, lora.dense_float, out=self._added))
        return self.out


class Buffers:
    """What a layer's step for R rows is computed in, and views of it; layers alike share them."""

    def __init__(self, parts: Parts, layer: LayerTensors, adapters: Tensor) -> None:
        R, H, H_kv, D = len(adapters), parts.heads, parts.kv_heads, parts.head_dim
        self.qkv, self.out, self.gate_up, self.down = (Product(columns, adapters) for columns in _products(layer))
        z = split(self.qkv.out, 1, H + 2 * H_kv)
        self.query, self.key, self.rotated = z[:, :H], z[:, H : H + H_kv], z[:, : H + H_kv]
        self.grouped = split(self.query, 1, H_kv)
        self.new = split(z[:, H:], 1, 2)  # [R, 2, H_kv, D]
        self.x, self.turned = torch.empty(2, R, H + H_kv, D, dtype=torch.float32).unbind()
        self.x1, self.x2 = self.x.chunk(2, 2)
        self.turned1, self.turned2 = self.turned.chunk(2, 2)
        self.x_halves, self.turned_halves = split(self.x, 2, 2), split(self.turned, 2, 2)
        self.gate, self.up = self.gate_up.out.chunk(2, 1)
        self.activation = torch.empty(self.gate.shape, dtype=z.dtype)


class CPUStep:
    """One token a row through every layer. ``cache`` is [L, 2, R, H_kv, T, D], ``lengths`` [R] int32."""

    def __init__(
        self, parts: Parts, tensors: Tensors, adapters: Tensor, cache: Tensor, lengths: Tensor, cos: Tensor, sin: Tensor
    ) -> None:
        self._parts, self._layers, self._norm = parts, tensors.layers, tensors.norm
        made: dict[object, Buffers] = {}
        for layer in tensors.layers:
            if _shapes(layer) not in made:
                made[_shapes(layer)] = Buffers(parts, layer, adapters)
        self._buffers = [made[_shapes(layer)] for layer in tensors.layers]
        self._lengths, self._cos, self._sin = lengths, cos, sin
        self._rows = torch.arange(len(adapters))
        self._caches = [layer.permute(1, 3, 0, 2, 4) for layer in cache]  # [R, T, 2, H_kv, D] each
        self._keys, self._values = [layer[0] for layer in cache], [layer[1] for layer in cache]

    def __call__(self, residual: Tensor, positions: Tensor, longest: int, even: bool) -> Tensor:
        """residual [R, H] of tokens at ``positions`` [R], written over -> final hidden states [R, H].

        ``longest`` bounds the lengths with the new token; ``even`` says that all are equal to it.
        """
        cos = self._cos.index_select(0, positions)[:, None]
        sin = self._sin.index_select(0, positions)[:, None]
        seen = self._seen(longest, even)
        shape, eps = residual.shape[1:], self._parts.eps
        for index, (layer, at) in enumerate(zip(self._layers, self._buffers, strict=True)):
            x = F.rms_norm(residual, shape, layer.attention_norm, eps)
            at.qkv(x, layer.qkv)
            self._turn(layer, at, cos, sin)
            self._caches[index].index_put_((self._rows, positions), at.new)
            residual.add_(at.out(self._attend(index, at.grouped, longest, *seen[layer.window]), layer.out))
            x = F.rms_norm(residual, shape, layer.mlp_norm, eps)
            at.gate_up(x, layer.gate_up)
            torch.ops.aten.silu.out(at.gate, out=at.activation)
            residual.add_(at.down(at.activation.mul_(at.up), layer.down))
        return F.rms_norm(residual, shape, self._norm, eps)

    def _turn(self, layer: LayerTensors, at: Buffers, cos: Tensor, sin: Tensor) -> None:
        """Queries and keys normalised, where the model does that, and rotated by their positions, in place."""
        if layer.q_norm is not None and layer.k_norm is not None:
            D, eps = self._parts.head_dim, self._parts.eps
            at.query.copy_(F.rms_norm(at.query, (D,), layer.q_norm, eps))
            at.key.copy_(F.rms_norm(at.key, (D,), layer.k_norm, eps))
        at.x.copy_(at.rotated)
        torch.mul(at.x_halves, cos[:, :, None], out=at.turned_halves)
        at.turned1.addcmul_(at.x2, sin, value=-1)
        at.turned2.addcmul_(at.x1, sin)
        at.rotated.copy_(at.turned)

    def _attend(self, index: int, query: Tensor, longest: int, first: int, mask: Tensor | None) -> Tensor:
        """[R, H·D]: the query heads of a key head are the query tokens of one attention call."""
        keys, values = self._keys[index][:, :, first:longest], self._values[index][:, :, first:longest]
        out = F.scaled_dot_product_attention(query, keys, values, attn_mask=mask, scale=self._parts.scale)
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


def suits(device: torch.device) -> bool:
    """Whether a step runs here."""
    return device.type == "cpu" and not INTERPRETED


def _shapes(layer: LayerTensors) -> object:
    return tuple((one.weight.shape, None if one.lora is None else one.lora.up.shape) for one in _products(layer))


def _products(layer: LayerTensors) -> tuple[Columns, ...]:
    return layer.qkv, layer.out, layer.gate_up, layer.down
