"""A decoding step as both ways make it, for calibration.py to time: the kernels in C and torch's operations."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from genarm_kernels.layer import cpu
from genarm_kernels.layer.lora import Lora
from genarm_kernels.native.decode import DecodeStep, Layer, Product

HIDDEN, HEADS, KV_HEADS, HEAD_SIZE, MLP, RANK, POSITIONS = 1024, 16, 4, 64, 2816, 16, 256
WEIGHT_BYTES = 10**8  # most caches hold less: weights come from memory, as those of a model do
EPS = 1e-5


class Trial:
    """Rows at the end of ``POSITIONS`` tokens in a small decoder; each but the first has an adapter of its own."""

    def __init__(self, dtype: torch.dtype, rows: int) -> None:
        self._dtype, self._adapters = dtype, torch.arange(-1, rows - 1, dtype=torch.int32, device="cpu")
        depth = WEIGHT_BYTES // (12_320_768 * dtype.itemsize)
        self._layers = [self._layer() for _ in range(depth)]
        self._norm = self._full(HIDDEN)
        self._cache = self._full(depth, 2, rows, KV_HEADS, POSITIONS, HEAD_SIZE)
        self._lengths = torch.full((rows,), POSITIONS, dtype=torch.int32, device="cpu")
        self._positions = self._lengths - 1
        self._cos, self._sin = torch.full((2, POSITIONS, HEAD_SIZE // 2), 0.5, device="cpu").unbind()
        self._embedded = self._full(rows, HIDDEN)
        self._step = DecodeStep(
            self._layers, self._norm, HEADS, self._adapters, self._cache, self._lengths, self._cos, self._sin, EPS,
            HEAD_SIZE**-0.5,
        )  # fmt: skip

    def by_kernels(self) -> Tensor:
        return self._step(self._embedded)

    def by_torch(self) -> Tensor:
        residual, z, before = self._embedded.clone(), None, None
        for layer, cached in zip(self._layers, self._cache.transpose(3, 4), strict=True):
            x = cpu.add_rms_norm(z, residual, layer.attention_norm, EPS, before)
            query = cpu.rotary_store(
                F.linear(x, layer.qkv.weight), self._cos, self._sin, self._positions, cached[0], cached[1], HEADS,
                layer.qkv.lora, None, None, None, EPS,
            )  # fmt: skip
            seen = cpu.attention(
                query[:, None], cached[0], cached[1], self._lengths, HEAD_SIZE**-0.5, 0, POSITIONS, True
            )
            z = F.linear(seen.flatten(1), layer.out.weight)
            x = cpu.add_rms_norm(z, residual, layer.mlp_norm, EPS, layer.out.lora)
            x = cpu.swiglu(F.linear(x, layer.gate_up.weight), layer.gate_up.lora)
            z, before = F.linear(x, layer.down.weight), layer.down.lora
        return cpu.add_rms_norm(z, residual, self._norm, EPS, before)

    def _layer(self) -> Layer:
        q, kv = HEADS * HEAD_SIZE, KV_HEADS * HEAD_SIZE
        products = (
            self._product(HIDDEN, q, kv, kv),
            self._product(q, HIDDEN),
            self._product(HIDDEN, MLP, MLP),
            self._product(MLP, HIDDEN),
        )
        return Layer(self._full(HIDDEN), self._full(HIDDEN), None, None, 0, *products)

    def _product(self, K: int, *widths: int) -> Product:
        N, adapters = sum(widths), len(self._adapters) - 1
        weight = self._full(N + adapters * len(widths) * RANK, K)
        if not adapters:
            return Product(weight, None, None, (N,))
        return Product(weight, None, Lora(self._full(adapters, N, RANK), self._adapters, widths), widths)

    def _full(self, *shape: int) -> Tensor:
        return torch.full(shape, 0.01, dtype=self._dtype, device="cpu")
