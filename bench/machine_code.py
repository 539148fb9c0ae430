"""Kernels compiled ahead of time, without a device, and what their machine code says.

compile_kernel(configuration, 90) -> what Triton makes of it for that compute capability
read(compiled)                    -> registers, stack, instructions, and the plain way through a group of 1,024 ids
"""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections import Counter
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from genarm_kernels.sampling import bounds, combine, distribution, draw, filters
from genarm_kernels.sampling.arguments import GROUP_SIZE
from genarm_kernels.sampling.groups import Partials

CUOBJDUMP = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
IDS_A_LANE = GROUP_SIZE // 32
_TYPES = {
    **dict.fromkeys(["row_stride", "model_stride", "bias_stride", "V", "G", "count"], "i32"),
    **dict.fromkeys(["counts", "statuses"], "*i32"),
    **dict.fromkeys(["seeds", "positions", "tokens", "top_k"], "*i64"),
    "totals": "*fp64",
    "partials": Partials("*fp32", "*fp32", "*i32", "*fp32", "*fp32", "*fp32", "*fp32", "*fp32"),  # type: ignore[arg-type]
}
_ALIGNED = [["tt.divisibility", 16]]


@dataclass(frozen=True)
class Configuration:
    """A kernel as it is shipped: the models' dtypes, its constants, its warps."""

    name: str
    kernel: Any
    dtypes: tuple[str, ...]
    constants: dict[str, Any] = field(hash=False)
    num_warps: int = 1
    most_registers: int | None = None
    aligned: bool = False  # whether the launcher would know pointers and strides as multiples of 16


@dataclass(frozen=True)
class MachineCode:
    """Counts of instructions are static; the plain way has no loop inside, and counts what a negative weight adds."""

    registers: int
    stack: int
    local: int
    instructions: int
    plain: Counter[str]  # instructions of the group kernel's main loop, by name

    @property
    def plain_an_id(self) -> float:
        return sum(self.plain.values()) / IDS_A_LANE

    @property
    def plain_loads(self) -> Counter[str]:
        return Counter({name: count for name, count in self.plain.items() if name.startswith("LDG")})


def compile_kernel(configuration: Configuration, capability: int = 90) -> CompiledKernel:
    kernel, M = configuration.kernel, len(configuration.dtypes)
    constants = {name: value for name, value in configuration.constants.items() if name in kernel.arg_names}
    if "M" in kernel.arg_names:
        constants["M"] = M
    types = {**_TYPES, "logits": configuration.dtypes, "strides": ("i64",) * M}
    signature = {name: "constexpr" if name in constants else types.get(name, "*fp32") for name in kernel.arg_names}
    places = [kernel.arg_names.index(name) for name in ("logits", "strides") if configuration.aligned]
    return triton.compile(
        ASTSource(
            fn=kernel,
            signature=signature,
            constexprs=constants,
            attrs={(place, m): _ALIGNED for place in places for m in range(M)},
        ),
        target=GPUTarget("cuda", capability, 32),
        options={
            "num_warps": configuration.num_warps,
            "maxnreg": configuration.most_registers,
            "num_stages": 1,
        },
    )


def read(compiled: CompiledKernel) -> MachineCode:
    listing, usage = dump(compiled.asm["cubin"])
    figures = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage)}
    instructions = instructions_in(listing)
    return MachineCode(
        registers=figures["REG"],
        stack=figures["STACK"],
        local=figures["LOCAL"] + len(re.findall(r"\b(?:LDL|STL)\b", listing)),
        instructions=len(instructions),
        plain=_plain_way(instructions) if compiled.name.startswith("group_kernel") else Counter(),
    )


def dump(cubin: bytes) -> tuple[str, str]:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernel.cubin"
        path.write_bytes(cubin)
        return tuple(  # type: ignore[return-value]
            subprocess.run([CUOBJDUMP, flag, path], stdout=-1, stderr=-2, text=True, check=True).stdout
            for flag in ("-sass", "-res-usage")
        )


def instructions_in(listing: str) -> list[tuple[int, str]]:
    """Address and text of each, predicates left in, padding left out."""
    found = re.findall(r"/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;", listing)
    return [(int(address, 16), text) for address, text in found if text != "NOP"]


def _plain_way(instructions: list[tuple[int, str]]) -> Counter[str]:
    """The loop over groups, from its head to where it jumps for a group that needs care.

    The head is the target of the outermost backward branch; its first forward branch is taken by a group of fewer ids,
    to the careful way, which lies behind the plain one.
    """
    branches = [
        (address, int(target, 16))
        for address, text in instructions
        for target in re.findall(r"\bBRA\b.*?(0x[0-9a-f]+)", text)
        if "BRA.DIV" not in text
    ]
    head = min(target for address, target in branches if target < address)
    careful = next(target for address, target in branches if address >= head and target > address)
    return Counter(
        re.sub(r"^@!?U?P\w+\s+", "", text).split()[0] for address, text in instructions if head <= address < careful
    )


PLAIN = {
    "HAS_BIAS": False, "LOGPROBS": False, "NORMALIZERS": False, "SHARES": False, "BASE_FILTER": False,
    "FILTERED": False, "TOP_K": False, "TOP_P": False, "MIN_P": False, "G_BLOCK": 128, "CAPACITY": filters.CAPACITY,
}  # fmt: skip
FEATURES: dict[str, dict[str, Any]] = {
    "plain": {},
    "bias": {"HAS_BIAS": True},
    "log-probs": {"LOGPROBS": True},
    "normalisers": {"NORMALIZERS": True},
    "normalisers of others": {"HAS_BIAS": True, "NORMALIZERS": True, "SHARES": True},
    "filters": {"TOP_K": True, "TOP_P": True, "MIN_P": True, "FILTERED": True},
    "base filter": {"BASE_FILTER": True},
    "all": {
        "HAS_BIAS": True, "LOGPROBS": True, "NORMALIZERS": True, "SHARES": True, "BASE_FILTER": True, "FILTERED": True,
        "TOP_K": True, "TOP_P": True, "MIN_P": True, "G_BLOCK": 1024,
    },
}  # fmt: skip
DTYPES = {"bf16": ("*bf16",), "fp32": ("*fp32",), "mixed": ("*bf16", "*fp32", "*fp16")}
MODELS = {"bf16": (1, 2, 3, 4, 5, 6, 7, 8), "fp32": (1, 2, 4, 8), "mixed": (2, 3, 8)}


def group_configuration(dtype: str, M: int, feature: str = "plain", wide: bool = True) -> Configuration:
    dtypes = (DTYPES[dtype] * M)[:M]
    lane = 4 if "*fp32" in dtypes else 8
    constants = {**PLAIN, **FEATURES[feature], "WIDE": wide, "LANE": lane}
    name = f"group, M={M}, {dtype}, {feature}, {'wide' if wide else 'narrow'}"
    asked = constants["LOGPROBS"], constants["NORMALIZERS"]
    limit = combine.most_registers(M, *asked, constants["BASE_FILTER"], wide)
    return Configuration(name, combine.group_kernel, dtypes, constants, most_registers=limit)


@cache
def shipped() -> dict[str, Configuration]:
    """What the launchers start: the group pass in every feature, path and kind of logits, and the kernels around it."""
    group = [
        group_configuration(dtype, M, feature, wide)
        for dtype in DTYPES
        for M in MODELS[dtype]
        for feature in FEATURES
        for wide in (True, False)
    ]
    around = []
    for feature in ("plain", "normalisers", "all"):
        constants = {**PLAIN, **FEATURES[feature]}
        for M in (2, 8):
            dtypes = (DTYPES["mixed"] * M)[:M]
            limit = draw.most_registers(constants["LOGPROBS"], constants["NORMALIZERS"])
            around += [
                Configuration(f"draw, M={M}, {feature}", draw.draw_kernel, dtypes, constants, draw.WARPS, limit),
                Configuration(
                    f"log-probs, M={M}, {feature}", distribution.log_probs_kernel, dtypes, constants, draw.WARPS
                ),
            ]
    constants = {**PLAIN, **FEATURES["all"]}
    around += [
        Configuration("bound", bounds.bound_kernel, (), {**constants, "G_BLOCK": 128}, bounds.WARPS),
        Configuration("bound, V=1M", bounds.bound_kernel, (), constants, bounds.WARPS),
        Configuration("gather", filters.gather_kernel, (), constants),
        Configuration("select", filters.select_kernel, (), constants, filters.SELECT_WARPS),
        Configuration("regroup", filters.regroup_kernel, (), constants),
    ]
    return {configuration.name: configuration for configuration in [*group, *around]}
