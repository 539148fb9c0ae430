"""Several new tokens per row in one step: each as it would be alone, and as float64 has it."""

from __future__ import annotations

import pytest
import torch
from mutations import assert_killed
from native_cases import TOLERANCE, Shape, before_tokens, edited_source, true_tokens

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


def check_tokens(shape: Shape, dtype: torch.dtype = torch.float32) -> None:
    """Four tokens in one call against float64, where nothing else is stored either."""
    step, embedded = before_tokens(shape, dtype, 4)
    expected, cache = true_tokens(step, embedded)
    error = (step.append(embedded, (4,)).double() - expected).abs().amax() / expected.abs().amax()
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
    step, embedded = before_tokens(shape, dtype, 8)
    alone = step.append(embedded, (1,) * 8)
    for parts in ((8,), (4, 1, 3)):
        other, _ = before_tokens(shape, dtype, 8)
        assert torch.equal(other.append(embedded, parts), alone)
        assert torch.equal(other.cache.nan_to_num(9), step.cache.nan_to_num(9))
        assert torch.equal(other.lengths, step.lengths)


def test_tokens_do_not_depend_on_the_threads() -> None:
    shape = SHAPES["over the chunks' borders"]
    step, embedded = before_tokens(shape, torch.float32, 5)
    alone = step.append(embedded, (1,) * 5)
    torch.set_num_threads(2)
    try:
        other, _ = before_tokens(shape, torch.float32, 5)
        assert torch.equal(other.append(embedded, (5,)), alone)
    finally:
        torch.set_num_threads(1)


# name: source, what stands there once, what is put in its place
MUTANTS = {
    "a token sees those after it": (
        "attention.h", "from, least(to, length - a->Q + q + 1)}", "from, least(to, length)}",
    ),
    "only the last token is stored": (
        "attention.h", "int64_t position = length - a->Q,", "int64_t position = length - 1,",
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
        "attention.h", "a->q_norm, token.position,", "a->q_norm, a->lengths[token.row] - 1,",
    ),
    "the row's window for every token": (
        "attention.h", "token.begin = token.position - a->window + 1;", "token.begin = length - a->window;",
    ),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_tokens_is_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert_killed(monkeypatch, edited_source(*MUTANTS[name]), check_shapes)
