"""A whole decoding step of a Llama-like decoder in one call of C."""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from genarm_kernels.layer.lora import Lora
from genarm_kernels.layer.sharing import Sharing
from genarm_kernels.native.library import compiled, threads

CACHE_LINE = 16  # floats


@dataclass(frozen=True, slots=True)
class Product:
    """A fused linear layer: weight [N + shrinks, K], contiguous, bias [N] or longer, or None, its adapters' expands.

    Without LoRA ``widths`` is (N,)."""

    weight: Tensor
    bias: Tensor | None
    lora: Lora | None
    widths: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Layer:
    """One decoder layer: norm weights, how many positions attention sees (0 is all), and its four products."""

    attention_norm: Tensor
    mlp_norm: Tensor
    q_norm: Tensor | None
    k_norm: Tensor | None
    window: int
    qkv: Product
    out: Product
    gate_up: Product
    down: Product


class _Linear(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("weight", "bias", "up")),
        *((name, ctypes.c_int64) for name in ("N", "K", "targets", "rank")),
        ("widths", ctypes.c_int64 * 3),
    ]


class _Layer(ctypes.Structure):
    _fields_ = [
        *((name, ctypes.c_void_p) for name in ("attention_norm", "mlp_norm", "q_norm", "k_norm")),
        ("window", ctypes.c_int64),
        *((name, _Linear) for name in ("qkv", "out", "gate_up", "down")),
    ]


class _Decoder(ctypes.Structure):
    _fields_ = [
        ("layers", ctypes.POINTER(_Layer)),
        *((name, ctypes.c_int64) for name in ("depth", "R", "Q", "H", "heads", "kv_heads", "D", "T")),
        *((name, ctypes.c_int64) for name in ("P", "prefix_T", "packed_size")),
        ("eps", ctypes.c_float),
        ("scale", ctypes.c_float),
        *((name, ctypes.c_void_p) for name in ("cache", "prefixes", "norm", "lengths", "adapters")),
        *((name, ctypes.c_void_p) for name in ("starts", "order", "first", "cos", "sin")),
        *((name, ctypes.c_void_p) for name in ("own", "residual", "z", "partials", "h", "packed")),
    ]


class DecodeStep:
    """Each row's new tokens through ``layers``; choice.py says where it does.

    Args:
        norm: [H], the last norm's weight.
        heads: query heads of a layer; its key heads and their size are the cache's.
        adapters: [R] int32, each row's adapter, −1 for none.
        cache: [L, 2, R, H_kv, T, D], contiguous, of the weights' dtype.
        lengths: [R] int32, with the new tokens: what it holds at a call counts.
        cos, sin: [T, D / 2] float32, or more positions; with prefixes as many as a whole row may have.
        eps, scale: of the norms, of attention's scores.
        sharing: which rows begin with which prefix; ``cache`` then holds what stands behind it, ``lengths`` count it.
        prefixes: [L, 2, P, H_kv, T_p, D], contiguous, of the weights' dtype. A prefix's keys and values come from
            memory once for all rows that begin with it; a row's bits are those of a cache that holds all its positions.

    Tensors are read where they are at every call and must stay there. The step's own room is made once, and again where
    a call brings more tokens per row than any before.
    """

    def __init__(
        self, layers: Sequence[Layer], norm: Tensor, heads: int, adapters: Tensor, cache: Tensor, lengths: Tensor,
        cos: Tensor, sin: Tensor, eps: float, scale: float, sharing: Sharing | None = None,
        prefixes: Tensor | None = None,
    ) -> None:  # fmt: skip
        native = compiled(norm.dtype)
        assert native is not None and cache.is_contiguous() and (sharing is None) == (prefixes is None)
        _, _, R, kv_heads, T, D = cache.shape
        P, prefix_T = _prefix_sizes(cache, sharing, prefixes)
        self._native, self._threads, self._products = native, threads(), [p for one in layers for p in _products(one)]
        self._kept = (layers, norm, adapters, cache, lengths, cos, sin, sharing, prefixes)
        shared = (None, None, None) if sharing is None else (sharing.lengths, sharing.order, sharing.first)
        self._layers = (_Layer * len(layers))(*map(_layer, layers))
        self._decoder = _Decoder(
            self._layers, len(layers), R, 1, len(norm), heads, kv_heads, D, T, P, prefix_T, 0, eps, scale,
            *map(_pointer, (cache, prefixes, norm, lengths, adapters, *shared, cos, sin)),
        )  # fmt: skip
        self._address = ctypes.addressof(self._decoder)
        self._make_room(1)

    def __call__(self, embedded: Tensor, tokens: int = 1) -> Tensor:
        """embedded [R · tokens, H], a row's side by side -> hidden states of as many after the last norm.

        Both are contiguous and of the weights' dtype. A row's tokens stand at its last positions, which its length
        counts; each sees those up to its own. A token's bits are those it has alone, one step after the other.
        """
        if tokens > self._room_for:
            self._make_room(tokens)
        self._decoder.Q = tokens
        hidden = torch.empty_like(embedded)
        team = min(self._threads, threads())
        self._native.decode(self._address, embedded.data_ptr(), hidden.data_ptr(), team)
        return hidden

    def _make_room(self, tokens: int) -> None:
        """For so many new tokens per row."""
        at, products = self._decoder, self._products
        N = at.R * tokens
        at.packed_size = max(self._native.packed_rows(N, K) * K for K in {one.weight.shape[1] for one in products})
        shrinks = max(0 if one.lora is None else len(one.widths) * one.lora.rank for one in products)
        sizes = {
            "own": N,
            "residual": N * at.H,
            "z": N * max(sum(one.widths) for one in products),
            "h": N * shrinks,
            "partials": N * at.heads * self._native.chunks_of(at.prefix_T + at.T) * (at.D + 2),
            "packed": self._threads * at.packed_size,
        }
        sizes = {name: -(-size // CACHE_LINE) * CACHE_LINE for name, size in sizes.items()}
        self._room = torch.empty(sum(sizes.values()), dtype=torch.float32, device="cpu")
        for name, part in zip(sizes, torch.split(self._room, list(sizes.values())), strict=True):
            setattr(at, name, part.data_ptr())
        self._room_for = tokens


def _prefix_sizes(cache: Tensor, sharing: Sharing | None, prefixes: Tensor | None) -> tuple[int, int]:
    """P and T_p."""
    if sharing is None or prefixes is None:
        return 0, 0
    L, two, P, kv_heads, T, D = prefixes.shape
    _, _, R, *_ = cache.shape
    assert prefixes.is_contiguous() and prefixes.dtype == cache.dtype
    assert cache.shape == (L, two, R, kv_heads, cache.shape[4], D), "prefixes and cache must be of the same model"
    assert (len(sharing.lengths), len(sharing.order), len(sharing.first)) == (R, R, P + 1)
    return P, T


def _products(layer: Layer) -> tuple[Product, ...]:
    return layer.qkv, layer.out, layer.gate_up, layer.down


def _layer(layer: Layer) -> _Layer:
    norms = (layer.attention_norm, layer.mlp_norm, layer.q_norm, layer.k_norm)
    return _Layer(*map(_pointer, norms), layer.window, *map(_linear, _products(layer)))


def _linear(product: Product) -> _Linear:
    rank = 0 if product.lora is None else product.lora.rank
    up = None if product.lora is None else product.lora.up
    widths = (*product.widths, 0, 0)[:3]
    return _Linear(
        _pointer(product.weight), _pointer(product.bias), _pointer(up),
        sum(product.widths), product.weight.shape[1], len(product.widths), rank, widths,
    )  # fmt: skip


def _pointer(tensor: Tensor | None) -> int | None:
    return None if tensor is None else tensor.data_ptr()
