"""The element-wise steps' own launches, specialised by Triton as for a GPU and compiled without one."""

import itertools
import re
from collections import Counter
from collections.abc import Callable

import pytest
import step_cases as cases
import torch
from compiled_launches import compile_only, first, in_registers, loads, on, sass, swept
from triton.compiler import CompiledKernel

from genarm_kernels import add_rms_norm, rotary_store, swiglu
from genarm_kernels.layer import activation, norm, rotary

BF16 = torch.bfloat16


@pytest.fixture
def launched(monkeypatch: pytest.MonkeyPatch) -> list[CompiledKernel]:
    """Every kernel that a call would have launched."""
    for module in (activation, norm, rotary):
        monkeypatch.setattr(module, "INTERPRETED", True)
    return compile_only(monkeypatch)


def norm_step(
    R: int = 2, N: int = 4096, A: int = 1, rank: int = 16, dtype: torch.dtype = BF16, layout: str = "padded"
) -> None:
    adapters = cases.make_lora(R, (N,), A, rank, dtype)
    z = cases.make_rows(R, cases.columns((N,), adapters), dtype, layout=layout)
    add_rms_norm(z, cases.make_rows(R, N, dtype), torch.ones(N, dtype=dtype), 1e-5, adapters)


def swiglu_step(
    R: int = 2, N: int = 14336, A: int = 1, rank: int = 16, dtype: torch.dtype = BF16, layout: str = "padded"
) -> None:
    adapters = cases.make_lora(R, (N, N), A, rank, dtype)
    swiglu(cases.make_rows(R, cases.columns((N, N), adapters), dtype, layout=layout), adapters)


def rotary_step(
    R: int = 2, N: int = 128, A: int = 1, rank: int = 16, dtype: torch.dtype = BF16, layout: str = "padded",
    normed: bool = False, T: int = 12, started: bool = False,
) -> None:  # fmt: skip
    widths = (32 * N, 8 * N, 8 * N)
    adapters = cases.make_lora(R, widths, A, rank, dtype)
    z = cases.make_rows(R, cases.columns(widths, adapters), dtype, layout=layout)
    weights = [torch.ones(N, dtype=dtype)] * 2 if normed else [None, None]
    caches = cases.make_caches(R, T, 8, N, dtype, "cpu", layout)
    positions = torch.zeros(R, dtype=torch.int64)
    starts = torch.zeros(R, dtype=torch.int32) if started else None
    rotary_store(z, *cases.make_angles(T, N), positions, *caches, 32, adapters, positions, *weights, starts=starts)


# Step, and the registers of a lane: 512 lanes of 128 fill an SM's.
STEPS: dict[str, tuple[Callable[..., None], int]] = {
    "norm": (norm_step, 128),
    "swiglu": (swiglu_step, 168),
    "rotary": (rotary_step, 96),
}


@pytest.mark.parametrize(
    ("name", "rank", "dtype"),
    first([("norm", 16, BF16), ("swiglu", 16, BF16), ("rotary", 16, BF16)],
          itertools.product(STEPS, (0, 3, 16, 64), (BF16, torch.float32))),
    ids=str,
)  # fmt: skip
def test_a_step_keeps_to_registers(launched: list[CompiledKernel], name: str, rank: int, dtype: torch.dtype) -> None:
    step, limit = STEPS[name]
    step(A=min(rank, 1), rank=max(rank, 1), dtype=dtype)
    in_registers(launched[-1], limit if dtype == BF16 else 255)


@pytest.mark.parametrize(
    ("step", "N"), [(norm_step, 16384), swept(rotary_step, 96), swept(norm_step, 1024), swept(norm_step, 5120),
                    swept(norm_step, 8192), swept(rotary_step, 64), swept(rotary_step, 256), swept(swiglu_step, 2816)],
)  # fmt: skip
def test_a_step_keeps_to_registers_at_every_size(
    launched: list[CompiledKernel], step: Callable[..., None], N: int
) -> None:
    step(N=N)
    in_registers(launched[-1])


def test_rows_come_in_16_byte_loads_and_b_all_at_once(launched: list[CompiledKernel]) -> None:
    norm_step(A=0)
    # z, the residual and weight: 8 columns a lane of 512.
    assert loads(launched[-1]) == {"LDG.E.128": 3}
    norm_step()
    # And B, 4096 × 16 over 512 lanes, 8 a load.
    assert loads(launched[-1])["LDG.E.128"] == 3 + 16
    swiglu_step(A=0)
    assert loads(launched[-1]) == {"LDG.E.128": 2}
    swiglu_step()
    assert loads(launched[-1])["LDG.E.128"] == 2 + 2 * 16
    rotary_step(A=0)
    # Two halves of bfloat16, then cos and sin in float32; the three others are position and row.
    wide = loads(launched[-1])
    assert wide["LDG.E.128"] == 2 + 2 * 2
    assert set(wide) <= {"LDG.E.128", "LDG.E.64"}


@pytest.mark.parametrize("name", ["norm", swept("swiglu"), swept("rotary")])
def test_rows_that_start_anywhere_are_taken_by_the_element(launched: list[CompiledKernel], name: str) -> None:
    STEPS[name][0](A=0, layout="narrow")
    assert loads(launched[-1])["LDG.E.U16"] >= 16
    in_registers(launched[-1])


def test_the_heads_norms_take_few_registers(launched: list[CompiledKernel]) -> None:
    rotary_step(normed=True)
    in_registers(launched[-1], 96)


def test_rows_that_start_somewhere_take_few_registers_and_the_same_wide_loads(launched: list[CompiledKernel]) -> None:
    for T in (12, 33):
        rotary_step(started=True, T=T)
    in_registers(launched[-1], 96)
    assert launched[0].hash == launched[1].hash
    rotary_step()
    wide = [loads(kernel)["LDG.E.128"] for kernel in launched[1:]]
    assert wide[0] == wide[1]


def test_a_norm_is_summed_in_one_order_whatever_is_known_of_the_alignment(launched: list[CompiledKernel]) -> None:
    for step in (norm_step, lambda **more: rotary_step(normed=True, **more)):
        orders, additions = [], []
        for layout in ("padded", "narrow"):
            step(layout=layout, dtype=torch.float32)
            text = launched[-1].asm["ttgir"]
            layouts = dict(re.findall(r"^(#\w+) = (.*)$", text, re.M))
            found = re.findall(r"\"tt\.reduce\".*?\}\) : \((tensor<[\w]+), (#\w+)>", text, re.S)
            orders.append([(kind, layouts[name]) for kind, name in found])
            additions.append(Counter(re.findall(r"\b(FFMA|FADD)\b", sass(launched[-1]))))
            assert products_to_contract(launched[-1]) == []
        assert orders[0] == orders[1] != []
        assert additions[0] == additions[1] != {}


def products_to_contract(kernel: CompiledKernel) -> list[str]:
    """Sums with a product as a term: which of a sum's products is rounded would be the compiler's choice."""
    products, sums = set(), []
    for line in kernel.asm["ttir"].splitlines():
        names = re.findall(r"%[\w#]+", line.partition(" loc(")[0])
        operands = set(names[line.partition(" = ")[0].count("%") :])
        if "arith.mulf" in line or (re.search(r"tt\.(reshape|split|trans|broadcast)\b", line) and operands & products):
            products.update(set(names) - operands)
        elif re.search(r"arith\.(addf|subf)\b", line) and operands & products:
            sums.append(line)
    return sums


@pytest.mark.parametrize("name", STEPS)
def test_other_rows_compile_nothing(launched: list[CompiledKernel], name: str) -> None:
    hashes = set()
    for R in (1, 2, 16, 33):
        STEPS[name][0](R=R)
        hashes.add(launched[-1].hash)
    assert len(hashes) == 1


def test_another_cache_length_compiles_nothing(launched: list[CompiledKernel]) -> None:
    for T in (1, 16, 33):
        rotary_step(T=T)
    assert len({kernel.hash for kernel in launched}) == 1


@pytest.mark.parametrize(("name", "capability"), first([("norm", 80)], itertools.product(STEPS, (80, 100))))
def test_a_step_compiles_elsewhere(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, name: str, capability: int
) -> None:
    on(capability, monkeypatch)
    STEPS[name][0]()
    assert launched[-1].asm["cubin"]


@pytest.mark.parametrize("name", STEPS)
def test_rows_are_addressed_in_64_bits(launched: list[CompiledKernel], name: str) -> None:
    STEPS[name][0]()
    # A row's number is widened before it is multiplied by anything.
    text = launched[-1].asm["ttir"]
    row = re.search(r"(%\w+) = tt\.get_program_id x", text)
    assert row is not None
    uses = [line for line in text.splitlines() if re.search(re.escape(row[1]) + r"\b(?!.*get_program_id)", line)]
    assert uses and all("arith.extsi" in line for line in uses)
