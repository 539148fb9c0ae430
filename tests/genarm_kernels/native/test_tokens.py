"""Several new tokens per row in one step: each as it would be alone, and as float64 has it."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from mutations import assert_killed
from native_cases import EPS, TOLERANCE, Shape, Step, edited_source, make_step
from torch import Tensor

from genarm_kernels.native.decode import DecodeStep

DTYPES = (torch.float32, torch.bfloat16)
pytestmark = pytest.mark.usefixtures("native_path")

# The lengths count a row's first new token alone.
SHAPES = {
    "ragged rows, two adapters": Shape(lengths=(3, 9, 4, 1, 6), adapters=(0, -1, 1, 1, 0), A=2, bias=True),
    "windows": Shape(lengths=(4, 40, 2), windows=(5, 0), norms=True),
    "over the chunks' borders": Shape(lengths=(509, 511, 512, 1022), D=8, heads=2, kv_heads=1),
    "a window over the chunks' borders": Shape(lengths=(1100, 510, 700), windows=(186, 3), D=8, heads=2, kv_heads=1),
    "nine heads of one key head, no multiples of 16": Shape(H=42, D=10, heads=9, kv_heads=1, mlp=37),
    "as many key heads as heads": Shape(heads=2, kv_heads=2, D=32),
}


def start(shape: Shape, dtype: torch.dtype, tokens: int) -> tuple[Step, Tensor]:
    """A step before its new tokens, and their embeddings [R, tokens, H]."""
    step = make_step(replace(shape, T=max(shape.lengths) + tokens), dtype)
    step.lengths -= 1
    R, H = step.embedded.shape
    embedded = torch.randn(R, tokens, H, generator=torch.Generator().manual_seed(1)).to(dtype)
    return step, embedded


def append(step: Step, embedded: Tensor, parts: tuple[int, ...]) -> Tensor:
    """Hidden states [R, tokens, H] of the new tokens, so many of each row in a call; cache and lengths are written."""
    decode = DecodeStep(
        step.layers, step.norm, step.heads, step.adapters, step.cache, step.lengths, step.cos, step.sin, EPS, step.scale
    )
    seen = []
    for some in embedded.split(list(parts), 1):
        R, tokens, H = some.shape
        step.lengths += tokens
        seen.append(decode(some.reshape(R * tokens, H).contiguous(), tokens).view(R, tokens, H))
    return torch.cat(seen, 1)


def truth(step: Step, embedded: Tensor) -> tuple[Tensor, Tensor]:
    """Hidden states and cache in float64, token by token; nothing is written."""
    cache, lengths, seen = step.cache.double(), step.lengths.clone(), []
    for token in embedded.unbind(1):
        lengths = lengths + 1
        hidden, cache = replace(step, cache=cache, lengths=lengths, embedded=token).truth()
        seen.append(hidden)
    return torch.stack(seen, 1), cache


def check_tokens(shape: Shape, dtype: torch.dtype = torch.float32) -> None:
    """Four tokens in one call against float64, where nothing else is stored either."""
    step, embedded = start(shape, dtype, 4)
    expected, cache = truth(step, embedded)
    error = (append(step, embedded, (4,)).double() - expected).abs().amax() / expected.abs().amax()
    assert float(error) < TOLERANCE[dtype], f"off by {float(error):.2g}"
    stored = (step.cache.double() - cache).nan_to_num().abs().amax() / cache.nan_to_num().abs().amax()
    assert float(stored) < TOLERANCE[dtype]
    assert torch.equal(step.cache.isnan(), cache.isnan())


def check_shapes() -> None:
    for shape in SHAPES.values():
        check_tokens(shape)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_tokens_of_one_call_are_the_oracle_s(shape: Shape, dtype: torch.dtype) -> None:
    check_tokens(shape, dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", SHAPES.values(), ids=SHAPES.keys())
def test_a_token_s_bits_do_not_depend_on_those_that_come_with_it(shape: Shape, dtype: torch.dtype) -> None:
    step, embedded = start(shape, dtype, 8)
    alone = append(step, embedded, (1,) * 8)
    for parts in ((8,), (4, 1, 3)):
        other, _ = start(shape, dtype, 8)
        assert torch.equal(append(other, embedded, parts), alone)
        assert torch.equal(other.cache.nan_to_num(9), step.cache.nan_to_num(9))
        assert torch.equal(other.lengths, step.lengths)


def test_tokens_do_not_depend_on_the_threads() -> None:
    shape = SHAPES["over the chunks' borders"]
    step, embedded = start(shape, torch.float32, 5)
    alone = append(step, embedded, (1,) * 5)
    torch.set_num_threads(2)
    try:
        other, _ = start(shape, torch.float32, 5)
        assert torch.equal(append(other, embedded, (5,)), alone)
    finally:
        torch.set_num_threads(1)


# name: source, what stands there once, what is put in its place
MUTANTS = {
    "a token sees those after it": (
        "attention.h", "row * a->Q + q, length - a->Q + 1 + q}", "row * a->Q + q, length}",
    ),
    "only the last token is stored": (
        "attention.h", "position = length - a->Q < chunk * CHUNK ? chunk * CHUNK : length - a->Q;",
        "position = length - 1 < chunk * CHUNK ? chunk * CHUNK : length - 1;",
    ),
    "every token with the row's first key": (
        "attention.h", "row * a->Q + position - (a->lengths[row] - a->Q);", "row * a->Q;",
    ),
    "every token with the first row's adapter": (
        "decoder.h", "m->adapters[i / m->Q]", "m->adapters[0]",
    ),
    "adapters by token instead of by row": (
        "decoder.h", "m->adapters[i / m->Q]", "m->adapters[i % m->R]",
    ),
    "all queries turned to the row's last position": (
        "attention.h", "a->q_norm, token.length - 1,", "a->q_norm, a->lengths[token.row] - 1,",
    ),
    "the row's window for every token": (
        "attention.h", "length > a->window ? length - a->window : 0",
        "length > a->window ? a->lengths[token.row] - a->window : 0",
    ),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_tokens_is_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_killed(monkeypatch, edited_source(*MUTANTS[name]), check_shapes)
