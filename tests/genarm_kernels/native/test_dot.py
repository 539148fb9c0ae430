"""Products with AVX-512's instructions, emulated where the processor has none: the oracle's, a row's bits its own."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
import torch
from emulated_kernels import DEFINES, emulate
from mutations import assert_killed
from native_cases import SHAPES, Shape, Step, check_a_step, check_exact, edited_source, make_step
from torch import Tensor

from genarm_kernels.native import compiler, library, products
from genarm_kernels.native.decode import DecodeStep
from genarm_kernels.native.trial import HEADS, Trial

DTYPES = (torch.float32, torch.bfloat16)
PRODUCTS = ((1, 1, 1), (2, 2, 15), (3, 5, 16), (4, 13, 33), (5, 40, 48), (9, 25, 100), (4, 12, 1024), (63, 75, 131))
pytestmark = pytest.mark.usefixtures("native_path")


@pytest.fixture(params=[(torch.bfloat16, "-DEMULATE_DOT"), *((dtype, "-DEMULATE_WIDE") for dtype in DTYPES)], ids=str)
def emulated(request: pytest.FixtureRequest, native_path: None, monkeypatch: pytest.MonkeyPatch) -> torch.dtype:
    """One of the ways that are not this processor's, by the dtype it is for."""
    dtype, flag = request.param
    emulate(monkeypatch, flag)
    return dtype  # type: ignore[no-any-return]


@pytest.fixture
def dot(native_path: None, monkeypatch: pytest.MonkeyPatch) -> None:
    emulate(monkeypatch, "-DEMULATE_DOT")


def test_sums_are_exact(emulated: torch.dtype) -> None:
    for R, N, K in PRODUCTS:
        check_exact(R, N, K, emulated)
    check_exact(70, 5, 20_000, emulated, bias=False)


def test_steps_are_the_oracle_s(emulated: torch.dtype) -> None:
    for shape in SHAPES.values():
        check_a_step(shape, emulated)


def test_a_row_of_a_product_does_not_depend_on_the_others(emulated: torch.dtype) -> None:
    x, weight = torch.randn(37, 203).to(emulated), torch.randn(50, 203).to(emulated)
    whole = products.linear(x, weight)
    for rows in (slice(0, 1), slice(5, 7), slice(3, 12), slice(36, 37)):
        assert torch.equal(products.linear(x[rows], weight), whole[rows])
    assert torch.equal(products.linear(x, weight[7:9]), whole[:, 7:9])


def test_a_row_of_a_step_does_not_depend_on_the_others_or_on_the_threads(emulated: torch.dtype) -> None:
    shape = Shape(lengths=(3, 90, 4, 14, 600, 2, 7), adapters=(0, -1, 1, 1, 0, 0, 1), A=2, D=24, windows=(0, 11))
    whole = make_step(shape, emulated)
    hidden = whole.run()
    for rows in ([4], [2, 3], [5, 4, 3, 2, 1, 0]):
        part = make_step(shape, emulated).rows(rows)
        assert torch.equal(part.run(), hidden[rows])
        assert torch.equal(part.cache.nan_to_num(9), whole.cache[:, :, rows].nan_to_num(9))
    torch.set_num_threads(2)
    try:
        assert torch.equal(make_step(shape, emulated).run(), hidden)
    finally:
        torch.set_num_threads(1)


def test_a_token_of_a_step_does_not_depend_on_those_that_come_with_it(emulated: torch.dtype) -> None:
    shape = Shape(lengths=(511, 4, 30), adapters=(1, -1, 0), A=2, windows=(0, 7), T=520)
    alone, together = make_step(shape, emulated), make_step(shape, emulated)
    tokens = torch.randn(3, 4, shape.H, generator=torch.Generator().manual_seed(1)).to(emulated)
    hidden = []
    for token in tokens.unbind(1):
        alone.embedded = token.contiguous()
        hidden.append(alone.run())
        alone.lengths += 1
    together.lengths += 3
    decode = DecodeStep(
        together.layers, together.norm, together.heads, together.adapters, together.cache, together.lengths,
        together.cos, together.sin, 1e-5, together.scale,
    )  # fmt: skip
    assert torch.equal(decode(tokens.reshape(12, -1), 4).view(3, 4, -1), torch.stack(hidden, 1))


def test_nan_stays_in_its_row(emulated: torch.dtype) -> None:
    step, clean = (make_step(SHAPES["plain"], emulated) for _ in range(2))
    step.embedded[1, 3] = torch.nan
    hidden = step.run()
    assert bool(hidden[1].isnan().all())
    assert torch.equal(hidden[[0, 2]], clean.run()[[0, 2]])


def check_the_instruction() -> None:
    """What its maker says of it: odd elements first, every sum rounded once, ties to even, no denormals."""
    big, tiny = 2.0**24, 2.0**-65
    for x, w, expected in (
        ([1.0, big, -big, 1.0], [1.0, 1.0, 1.0, 1.0], 0.0),  # (2^24 + 1) + 1 − 2^24, by the odd one first
        ([1.0, big, 0.0, -big], [3.0, 1.0, 0.0, 1.0], 4.0),
        ([0.0, tiny], [0.0, tiny], 0.0),  # 2^-130, which bfloat16 has
        ([0.0, 2.0**-130], [0.0, 2.0**10], 0.0),
        ([0.0, -(2.0**-126), 0.0, 2.0**-126], [0.0, 1.0, 0.0, 1.5], 0.0),
        ([2.0**-126, 0.0], [1.0, 0.0], 2.0**-126),
    ):
        rows = torch.zeros(2, 64)
        for row, values in zip(rows, (x, w), strict=True):
            for index, value in enumerate(values):  # pairs that meet in the first lane
                row[index // 2 * 32 + index % 2] = value
        left, right = rows.to(torch.bfloat16).split(1)
        assert float(products.linear(left, right)) == expected, (x, w)


def test_the_instruction_is_emulated_as_it_is_defined(dot: None) -> None:
    check_the_instruction()


def test_a_processor_that_has_the_instruction_gets_the_same_bits(native_path: None, dot: None) -> None:
    if "avx512_bf16" not in compiler.processor():
        pytest.skip("NOT RUN: this processor does not have AVX512-BF16")
    x, weight = torch.randn(9, 1040).to(torch.bfloat16), torch.randn(50, 1040).to(torch.bfloat16)
    expected = products.linear(x, weight)
    own = library._load(compiler.compiled(DEFINES[torch.bfloat16]))
    out = torch.empty_like(expected)
    room = torch.empty(9 * 1040)
    own.linear_rows(
        x.data_ptr(), 1040, weight.data_ptr(), 1040, None, out.data_ptr(), 50, 9, 50, 1040, room.data_ptr(), 9 * 1040, 1
    )
    assert torch.equal(out, expected)


class RandomTrial(Trial):
    """Not all of its numbers are equal."""

    def _full(self, *shape: int) -> Tensor:
        generator = torch.Generator().manual_seed(sum(shape))
        return (torch.randn(shape, generator=generator) * shape[-1] ** -0.5).to(self._dtype)


def check_bfloat16_is_nearer_than_torch_s() -> None:
    """The root mean square error of a step against float64: activations are rounded, sums and residual are not."""
    trial = RandomTrial(torch.bfloat16, 4)
    step = Step(
        trial._layers, trial._norm, HEADS, trial._adapters, trial._cache, trial._lengths, trial._cos, trial._sin,
        trial._embedded,
    )  # fmt: skip
    truth, _ = step.truth()
    ways = (trial.by_kernels(), trial.by_torch())
    own, torchs = (float((hidden.double() - truth).square().mean().sqrt()) for hidden in ways)
    assert own <= torchs * 0.45, (own, torchs)


def test_bfloat16_is_nearer_to_the_truth_than_torch_s(dot: None) -> None:
    check_bfloat16_is_nearer_than_torch_s()


AVX512 = ("-mavx512f", "-mavx512bw", "-mavx512vl", "-mavx512dq")


@pytest.mark.parametrize(
    ("flags", "multiply"),
    [(("-DBFLOAT16", "-mavx512bf16"), "vdpbf16ps"), (("-DBFLOAT16", "-mno-avx512bf16"), "vfmadd"), ((), "vfmadd")],
    ids=["dot", "widening", "float32"],
)
def test_the_inner_loop_keeps_its_sums_in_registers(flags: tuple[str, ...], multiply: str) -> None:
    """Four rows by four columns: 16 products, and no sum goes to the stack or comes from there."""
    gcc = compiler.shutil.which("gcc")
    if gcc is None:
        pytest.skip("NOT RUN: there is no gcc")
    flags = tuple(flag for flag in compiler.FLAGS if flag != "-shared") + AVX512 + flags
    try:
        text = compiler._run([gcc, *flags, "-S", str(compiler.SOURCES / compiler.MAIN), "-o", "-"])
    except compiler.CompileError as error:
        pytest.skip(f"NOT RUN: {error}")
    tiles = [loop for loop in loops(text) if sum(multiply in line for line in loop) == 16 and "prefetch" in str(loop)]
    assert tiles
    for loop in tiles:
        assert not [line for line in loop if re.search(r"%[zy]mm\d+, [^%]*\(|\(%r[sb]p.*%[zy]mm", line)], "\n".join(
            loop
        )


def loops(assembly: str) -> list[list[str]]:
    """From a label to the jump back to it, without a label between."""
    found, label, lines = [], "", []
    for line in assembly.splitlines():
        if match := re.match(r"(\.L\d+):", line):
            label, lines = match[1], []
        elif line.startswith("\t") and not line.startswith("\t."):
            lines.append(line)
            if re.match(rf"\tj\w+\t{re.escape(label)}$", line):
                found.append(lines[:])
    return found


def check_products() -> None:
    for R, N, K in PRODUCTS:
        check_exact(R, N, K, torch.bfloat16)


# name: the way it is of, what stands once in operands.h or the source named, what is put in its place, what notices
MUTANTS: dict[str, tuple[str, str, str, str, Callable[[], None]]] = {
    "even elements first": (
        "-DEMULATE_DOT", "operands.h", "words x, words w)\n{",
        "words x, words w)\n{\n    x = x << 16 | x >> 16, w = w << 16 | w >> 16;",
        check_the_instruction,
    ),
    "denormals kept": (
        "-DEMULATE_DOT", "operands.h", "return choose(((ints)values & 0x7f800000) == 0,", "return choose((ints){},",
        check_the_instruction,
    ),
    "activations cut off": (
        "-DEMULATE_DOT", "operands.h", "(word + 0x7fff + ((word >> 16) & 1)) >> 16", "word >> 16",
        check_bfloat16_is_nearer_than_torch_s,
    ),
    "a quarter of sixteen": (
        "-DEMULATE_DOT", "operands.h", "memcpy(&values, from, sizeof values / 2);", "memcpy(&values, from, 16);",
        check_products,
    ),
    "the last sixteen left out": (
        "-DEMULATE_DOT", "linear.h", "if (STEP > 16 && k + 16 <= K) {",
        "if (STEP > 16 && k + 16 <= K && (k += 16) < 0) {",
        check_products,
    ),
    "the fourth column like the first": (
        "-DEMULATE_DOT", "linear.h", "folded(v[count > 3 ? 3 : 0])", "folded(v[0])",
        check_products,
    ),
    "half of the lanes": (
        "-DEMULATE_WIDE", "operands.h", "halves(values).first + halves(values).second;", "halves(values).first;",
        check_products,
    ),
}  # fmt: skip


@pytest.mark.mutants
@pytest.mark.parametrize("name", MUTANTS)
def test_a_mutant_of_the_products_is_killed(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    flag, file, old, new, check = MUTANTS[name]
    emulate(monkeypatch, flag)
    assert_killed(monkeypatch, edited_source(file, old, new), check)
