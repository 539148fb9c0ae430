"""Cases and checks of the kernels in C: a decoding step against a float64 one, products with exact sums, mutants."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
from kernel_cases import assert_distributed, draw_many
from linear_cases import amid_nan, inside_sentinels, numbers
from mutations import Mutation
from torch import Tensor

from genarm_kernels import reference
from genarm_kernels.layer.lora import Lora
from genarm_kernels.layer.sharing import Sharing
from genarm_kernels.native import compiler, library, products
from genarm_kernels.native.decode import DecodeStep, Layer, Product
from genarm_kernels.reference.layer import expand, rms_norm

EPS = 1e-5


@dataclass(frozen=True)
class Shape:
    """Of a decoder and its rows. ``lengths`` count the new token; ``adapters`` are the rows', of A."""

    lengths: tuple[int, ...] = (7, 1, 12)
    adapters: tuple[int, ...] = ()
    A: int = 0
    rank: int = 16
    H: int = 48
    heads: int = 4
    kv_heads: int = 2
    D: int = 16
    mlp: int = 80
    depth: int = 2
    T: int = 0
    windows: tuple[int, ...] = (0, 0)
    bias: bool = False
    norms: bool = False


@dataclass
class Step:
    """What a DecodeStep reads, made of random numbers."""

    layers: list[Layer]
    norm: Tensor
    heads: int
    adapters: Tensor
    cache: Tensor
    lengths: Tensor
    cos: Tensor
    sin: Tensor
    embedded: Tensor
    sharing: Sharing | None = None
    prefixes: Tensor | None = None

    @property
    def scale(self) -> float:
        return float(self.cache.shape[-1]) ** -0.5

    def rows(self, index: list[int]) -> Step:
        """Some rows alone."""
        return replace(
            self,
            adapters=self.adapters[index],
            cache=self.cache[:, :, index].contiguous(),
            lengths=self.lengths[index],
            embedded=self.embedded[index],
        )

    def run(self) -> Tensor:
        """Hidden states [R, H] by the kernels; the cache is written."""
        return self.decode()(self.embedded)

    def decode(self) -> DecodeStep:
        """It reads and writes these tensors."""
        return DecodeStep(
            self.layers, self.norm, self.heads, self.adapters, self.cache, self.lengths, self.cos, self.sin, EPS,
            self.scale, self.sharing, self.prefixes,
        )  # fmt: skip

    def append(self, embedded: Tensor, parts: tuple[int, ...]) -> Tensor:
        """Hidden states [R, tokens, H] of new tokens, so many of each row in a call; cache and lengths are written."""
        decode, seen = self.decode(), []
        for some in embedded.split(list(parts), 1):
            R, tokens, H = some.shape
            self.lengths += tokens
            seen.append(decode(some.reshape(R * tokens, H).contiguous(), tokens).view(R, tokens, H))
        return torch.cat(seen, 1)

    def truth(self) -> tuple[Tensor, Tensor]:
        """Hidden states and cache in float64; nothing is written."""
        residual, cache = self.embedded.double(), self.cache.double()
        for layer, (keys, values) in zip(self.layers, cache, strict=True):
            x = rms_norm(residual, layer.attention_norm, EPS)
            query, new_keys, new_values = reference.rotary_store(
                self._product(x, layer.qkv), self.cos, self.sin, self.lengths - 1, keys.transpose(1, 2),
                values.transpose(1, 2), self.heads, None, None, layer.q_norm, layer.k_norm, EPS,
            )  # fmt: skip
            keys.copy_(new_keys.transpose(1, 2))
            values.copy_(new_values.transpose(1, 2))
            seen = reference.decode_attention(
                query[:, None], new_keys, new_values, self.lengths, self.scale, layer.window
            )
            residual = residual + self._product(seen[:, 0].flatten(1), layer.out)
            x = rms_norm(residual, layer.mlp_norm, EPS)
            x = reference.swiglu(self._product(x, layer.gate_up))
            residual = residual + self._product(x, layer.down)
        return rms_norm(residual, self.norm, EPS), cache

    def _product(self, x: Tensor, product: Product) -> Tensor:
        z = reference.skinny_linear(x, product.weight)
        lora = None if product.lora is None else replace(product.lora, adapters=self.adapters)
        y = expand(z, lora)
        return y if product.bias is None else y + product.bias[: y.shape[1]].double()


def make_step(shape: Shape, dtype: torch.dtype, seed: int = 0) -> Step:
    generator = torch.Generator().manual_seed(seed)

    def random(*size: int, scale: float = 1.0) -> Tensor:
        return (torch.randn(*size, generator=generator) * scale).to(dtype)

    def product(K: int, *widths: int) -> Product:
        N, shrinks = sum(widths), shape.A * len(widths) * shape.rank
        lora = None
        if shape.A:
            up = random(shape.A, N, shape.rank, scale=shape.rank**-0.5)
            lora = Lora(up, torch.empty(0, dtype=torch.int32), widths)
        bias = random(N + shrinks) if shape.bias else None
        return Product(random(N + shrinks, K, scale=K**-0.5), bias, lora, widths if shape.A else (N,))

    def layer(window: int) -> Layer:
        q, kv, H = shape.heads * shape.D, shape.kv_heads * shape.D, shape.H
        norms = [1 + random(size, scale=0.2) for size in (H, H, shape.D, shape.D)]
        if not shape.norms:
            norms[2:] = [None, None]  # type: ignore[list-item]
        products = (product(H, q, kv, kv), product(q, H), product(H, shape.mlp, shape.mlp), product(shape.mlp, H))
        return Layer(*norms, window, *products)

    R, T = len(shape.lengths), shape.T or max(shape.lengths) + 3
    angles = torch.randn(T, shape.D // 2, generator=generator)
    cache = random(shape.depth, 2, R, shape.kv_heads, T, shape.D)
    for row, length in enumerate(shape.lengths):  # what stands behind a row's tokens is nobody's
        cache[:, :, row, :, length - 1 :] = torch.nan
    return Step(
        [layer(window) for window in shape.windows],
        1 + random(shape.H, scale=0.2),
        shape.heads,
        torch.tensor(shape.adapters or [-1] * R, dtype=torch.int32),
        cache,
        torch.tensor(shape.lengths, dtype=torch.int32),
        angles.cos(),
        angles.sin(),
        random(R, shape.H),
    )


def before_tokens(shape: Shape, dtype: torch.dtype, tokens: int) -> tuple[Step, Tensor]:
    """A step before its new tokens, and their embeddings [R, tokens, H]; the shape's lengths count the first."""
    step = make_step(replace(shape, T=max(shape.lengths) + tokens), dtype)
    step.lengths -= 1
    R, H = step.embedded.shape
    return step, torch.randn(R, tokens, H, generator=torch.Generator().manual_seed(1)).to(dtype)


def true_tokens(step: Step, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and cache in float64, token by token; nothing is written."""
    cache, lengths, seen = step.cache.double(), step.lengths.clone(), []
    for token in embedded.unbind(1):
        lengths = lengths + 1
        hidden, cache = replace(step, cache=cache, lengths=lengths, embedded=token).truth()
        seen.append(hidden)
    return torch.stack(seen, 1), cache


SHAPES = {
    "plain": Shape(),
    "one row": Shape(lengths=(5,)),
    "five rows, two adapters": Shape(lengths=(3, 9, 4, 4, 6), adapters=(0, -1, 1, 1, 0), A=2),
    "nine rows of one adapter, rank 32": Shape(lengths=(6,) * 9, adapters=(0,) * 9, A=1, rank=32),
    "biases": Shape(bias=True, adapters=(1, 0, -1), A=2),
    "norms of queries and keys": Shape(norms=True),
    "windows": Shape(lengths=(7, 40, 3), windows=(5, 0)),
    "a window within several chunks": Shape(lengths=(1100, 600, 512), windows=(700, 0), D=8, heads=2, kv_heads=1),
    "lengths at the chunks' borders": Shape(lengths=(511, 512, 513, 1024, 1), D=8, heads=2, kv_heads=1),
    "no multiples of 16": Shape(H=42, D=10, heads=3, kv_heads=1, mlp=37, adapters=(0, 0, -1), A=1),
    "one key head of nine": Shape(heads=9, kv_heads=1),
    "ungrouped wide heads": Shape(heads=2, kv_heads=2, D=128),
}  # fmt: skip
# Of the float64 truth, in units of the largest hidden state: bfloat16 rounds keys and values and the result.
TOLERANCE = {torch.float32: 3e-6, torch.bfloat16: 1.5e-2}


def check_a_step(shape: Shape, dtype: torch.dtype) -> None:
    step = make_step(shape, dtype)
    expected, cache = step.truth()
    hidden = step.run()
    error = (hidden.double() - expected).abs().amax() / expected.abs().amax()
    assert float(error) < TOLERANCE[dtype], f"off by {float(error):.2g}"
    # What was stored is the new tokens' and nothing else.
    stored = (step.cache.double() - cache).nan_to_num().abs().amax() / cache.nan_to_num().abs().amax()
    assert float(stored) < TOLERANCE[dtype]
    assert torch.equal(step.cache.isnan(), cache.isnan())


def check_steps() -> None:
    for shape in SHAPES.values():
        check_a_step(shape, torch.float32)


def check_long_steps() -> None:
    check_a_step(SHAPES["a window within several chunks"], torch.float32)
    check_a_step(SHAPES["lengths at the chunks' borders"], torch.float32)


def check_exact(R: int, N: int, K: int, dtype: torch.dtype, bias: bool = True) -> None:
    """Equal to the oracle where sums are exact; nothing beyond the inputs is read, nothing beyond the output written.

    The sums are whole numbers of up to 14 bits: bfloat16 has to round them.
    """
    x, weight = 11 * numbers(R, K, seed=1, dtype=dtype), 13 * numbers(N, K, seed=2, dtype=dtype)
    offset = numbers(N, seed=3, dtype=dtype) if bias else None
    out, room = inside_sentinels(R, N, dtype)
    products.linear(amid_nan(x, 3, 5), amid_nan(weight, 2, 7), offset, out)
    assert torch.equal(out, reference.skinny_linear(x, weight, offset).to(dtype))
    out.fill_(room[0, 0])
    assert bool((room == room[0, 0]).all())


def check_products() -> None:
    for R, N, K in ((1, 1, 1), (3, 40, 48), (5, 13, 33), (9, 25, 100)):
        check_exact(R, N, K, torch.bfloat16)
        check_exact(R, N, K, torch.float32)


def check_odd_places() -> None:
    """Of equal logits at odd ids the first is drawn, whatever stands before them: every processor's code reads them
    alike here, where products may read pairs by an instruction of their own."""
    logits = torch.zeros(1, 64, dtype=torch.bfloat16)
    logits[0, 1:8:2], logits[0, 2:8:2] = 1.0, 0.99609375
    assert draw_many([logits], [1.0], 2, seed=1, temperature=0.0).tolist() == [1, 1]


def check_groups_have_their_mass() -> None:
    sizes = torch.tensor([1024.0, 1024.0, 100.0])
    tokens = draw_many([torch.zeros(1, 2148)], [1.0], 4000, seed=1)
    assert_distributed(tokens // 1024, (sizes / 2148).log())


def edited_source(file: str, old: str, new: str) -> Mutation:
    """The kernels with ``old``, which stands once in a source, replaced by ``new``; quickly compiled."""

    def mutate(monkeypatch: pytest.MonkeyPatch) -> None:
        folder = Path(compiler._own_folder()) / f"mutant-{abs(hash((file, old, new)))}"
        folder.mkdir(exist_ok=True)
        for source in compiler.SOURCES.glob("*.[ch]"):
            text = source.read_text()
            if source.name == file:
                assert text.count(old) == 1, f"{file} has {text.count(old)} of {old!r}: expected 1"
                text = text.replace(old, new)
            (folder / source.name).write_text(text)
        monkeypatch.setattr(compiler, "SOURCES", folder)
        monkeypatch.setattr(compiler, "FLAGS", (*compiler.FLAGS, "-O1"))
        built: dict[torch.dtype, Any] = {}

        def load(dtype: torch.dtype) -> Any:
            if dtype not in built:
                built[dtype] = library._load(compiler.compiled(library.DEFINES[dtype]))
            return built[dtype]

        monkeypatch.setattr(library, "_library", load)
        monkeypatch.setattr(compiler, "_folder", lambda: folder)

    return mutate
