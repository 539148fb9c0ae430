"""Every kernel as it is shipped, compiled ahead of time: registers only, wide loads, few instructions, one order."""

import re
from dataclasses import replace

import pytest
from compiled_launches import first, in_registers, swept

from bench.machine_code import Configuration, compile_kernel, group_configuration, shipped

SHIPPED = shipped()
AROUND = [name for name in SHIPPED if not name.startswith("group")]
USUAL = [
    *(f"group, M=2, bf16, {feature}, wide" for feature in ("plain", "filters", "log-probs", "base filter")),
    "group, M=2, bf16, normalisers, wide", "group, M=2, bf16, all, narrow", "group, M=8, bf16, all, wide",
    "draw, M=2, plain", "draw, M=8, all",
    "log-probs, M=8, all", "bound", "gather", "select", "regroup",
]  # fmt: skip
# Instructions an id of the plain way through a group, counted in the machine code for sm_90: at most this many.
INSTRUCTIONS = {
    ("plain", 1): 12,
    ("plain", 2): 16,
    ("plain", 4): 22,
    ("plain", 8): 37,
    ("bias", 2): 16,
    ("filters", 2): 20,
    ("base filter", 2): 24,
    ("log-probs", 1): 19,
    ("log-probs", 2): 30,
    ("log-probs", 4): 50,
    ("normalisers", 1): 19,
    ("normalisers", 2): 30,
    ("normalisers", 4): 50,
}


@pytest.mark.parametrize("name", [name if name in USUAL else swept(name) for name in SHIPPED])
def test_kernel_keeps_to_registers_on_sm_90(name: str) -> None:
    code = in_registers(compile_kernel(SHIPPED[name]), name=name)
    if name.startswith("group"):
        loads = set(code.plain_loads)
        assert loads == {"LDG.E.128"} if name.endswith("wide") else loads <= {"LDG.E.U16", "LDG.E"} and loads


USUAL_FEATURES = [("plain", 2), ("plain", 4), ("filters", 2), ("base filter", 2), ("log-probs", 2)]


@pytest.mark.parametrize(
    ("feature", "M", "dtype"),
    [(*key, "bf16") if key in USUAL_FEATURES else swept(*key, "bf16") for key in INSTRUCTIONS]
    + [swept(*key, "fp32") for key in INSTRUCTIONS],
)
def test_the_main_loop_takes_few_instructions_an_id(feature: str, M: int, dtype: str) -> None:
    configuration = group_configuration(dtype, M, feature)
    code = in_registers(compile_kernel(configuration), name=configuration.name)
    assert code.plain_an_id <= INSTRUCTIONS[feature, M]
    # A lane's 32 ids of M models and no more: nothing is read twice, the scores and bias aside.
    loads = code.plain_loads["LDG.E.128"]
    itemsize = 2 if dtype == "bf16" else 4
    assert loads == (M * itemsize + 4 * (feature == "bias")) * 32 / 16


def test_the_usual_draw_fills_the_chip() -> None:
    # 64 registers a lane leave an SM its 32 one-warp programs, 96 two thirds of them.
    in_registers(compile_kernel(group_configuration("bf16", 2)), 64)
    in_registers(compile_kernel(group_configuration("bf16", 4)), 96)


ELSEWHERE = [
    (name, capability) for name in SHIPPED for capability in (80, 100) if "M=2, bf16" in name or name in AROUND
]
USUAL_ELSEWHERE = [("group, M=2, bf16, plain, wide", 80), ("draw, M=2, plain", 100)]


@pytest.mark.parametrize(("name", "capability"), first(USUAL_ELSEWHERE, ELSEWHERE))
def test_kernel_keeps_to_registers_elsewhere(name: str, capability: int) -> None:
    in_registers(compile_kernel(SHIPPED[name], capability), name=name)


@pytest.mark.parametrize("name", ["group, M=2, bf16, plain, wide", "draw, M=2, plain", "gather", "regroup"])
def test_rows_are_addressed_in_64_bits(name: str) -> None:
    rows = re.findall(
        r"tt\.addptr %(?:logits|scores)\w*, %\w+ : !tt\.ptr<\w+>, (i\d+)", compile_kernel(SHIPPED[name]).asm["ttir"]
    )
    assert rows and set(rows) == {"i64"}


def sums(configuration: Configuration) -> set[tuple[str, str]]:
    """Type and layout of everything that a kernel adds up across lanes."""
    text = compile_kernel(configuration).asm["ttgir"]
    layouts = dict(re.findall(r"^(#\w+) = (.*)$", text, re.M))
    reductions = re.findall(r"\"tt\.reduce\".*?\(\{(.*?)\}\) : \((tensor<\w+), (#[^)]*?)>(?:\)|, tensor)", text, re.S)
    assert len(reductions) == text.count('"tt.reduce"')
    return {(kind, layouts.get(layout, layout)) for body, kind, layout in reductions if "arith.addf" in body}


ONE_VALUE_A_LANE = "#ttg.blocked<{sizePerThread = [1], threadsPerWarp = [32], warpsPerCTA = [1], order = [0]}>"


SUMMED = [(name, aligned) for name in SHIPPED for aligned in (True, False) if "group" in name and "M=2" in name]
USUAL_SUMMED = [("group, M=2, bf16, plain, wide", True), ("group, M=2, bf16, all, narrow", False)]


@pytest.mark.parametrize(
    ("name", "aligned"),
    first([("regroup", False), *USUAL_SUMMED], SUMMED),
)
def test_a_group_is_summed_in_one_order_by_every_variant(name: str, aligned: bool) -> None:
    # Row independence rests on it. Down to one value a lane the tree is written out, addition by addition; the rest
    # goes over the lanes in order, whatever the variant and whatever the launcher knows of the alignment.
    configuration = SHIPPED[name]
    if name != "regroup":
        configuration = replace(configuration, aligned=aligned)
    assert sums(configuration) == {("tensor<32xf32", ONE_VALUE_A_LANE)}


def test_a_row_is_drawn_in_one_order_whatever_is_known_of_the_alignment() -> None:
    known, unknown = (sums(replace(SHIPPED["draw, M=2, all"], aligned=aligned)) for aligned in (True, False))
    assert known == unknown
