"""Every kernel compiles ahead of time for each architecture, and for sm_90 it keeps everything in registers."""

import re
import subprocess
from pathlib import Path

import pytest
import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, CompiledKernel

from genarm_kernels import combine, draw

TYPES = {
    **dict.fromkeys(["shift", "row_stride", "model_stride", "bias_stride", "V", "G"], "i32"),
    **dict.fromkeys(["bits", "all_bits", "statuses"], "*i32"),
    **dict.fromkeys(["seeds", "positions", "tokens"], "*i64"),
}
MIXED = ("*bf16", "*fp16", "*fp32")
PLAIN = {"HAS_BIAS": False, "LOGPROBS": False, "STORE": False, "BASE_FILTER": False}
FULL = {"HAS_BIAS": True, "LOGPROBS": True, "STORE": True, "BASE_FILTER": True}
CONFIGURATIONS = {
    "group, M=1": (combine.group_kernel, ("*fp32",), PLAIN, 1),
    "group, M=2": (combine.group_kernel, ("*bf16", "*bf16"), PLAIN, 1),
    "group, M=2, all": (combine.group_kernel, ("*bf16", "*bf16"), FULL, 1),
    "group, M=8, all": (combine.group_kernel, (*MIXED, *MIXED, "*fp32", "*fp32"), FULL, 1),
    "filtered group": (combine.filtered_group_kernel, (), {}, 1),
    "draw, M=2": (draw.draw_kernel, ("*bf16",) * 2, {"HAS_BIAS": False, "LOGPROBS": False, "FILTERED": False}, 4),
    "draw, M=8, all": (draw.draw_kernel, ("*fp32",) * 8, {"HAS_BIAS": True, "LOGPROBS": True, "FILTERED": False}, 4),
    "draw, M=3, filtered": (draw.draw_kernel, MIXED, {"HAS_BIAS": False, "LOGPROBS": True, "FILTERED": True}, 4),
    "log-probs": (draw.log_probs_kernel, ("*bf16",) * 2, {"FILTERED": True}, 1),
}


def compiled(name: str, capability: int, aligned: bool = False) -> CompiledKernel:
    """The kernel, with its logits and strides known to be multiples of 16 or not."""
    kernel, logits, constants, num_warps = CONFIGURATIONS[name]
    constants = dict(constants)
    if "CHUNK" in kernel.arg_names:
        constants["CHUNK"] = combine.CHUNKS[len(logits)]
    if "M" in kernel.arg_names:
        constants["M"] = len(logits)
    if "G_BLOCK" in kernel.arg_names:
        constants["G_BLOCK"] = 1024
    types = {"logits": logits, "strides": ("i64",) * len(logits)}
    signature = {
        argument: "constexpr" if argument in constants else types.get(argument, TYPES.get(argument, "*fp32"))
        for argument in kernel.arg_names
    }
    places = [kernel.arg_names.index(name) for name in types if aligned]
    attributes = {(place, m): [["tt.divisibility", 16]] for place in places for m in range(len(logits))}
    return triton.compile(
        ASTSource(fn=kernel, signature=signature, constexprs=constants, attrs=attributes),
        target=GPUTarget("cuda", capability, 32),
        options={"num_warps": num_warps},
    )


@pytest.mark.parametrize("capability", [80, 100])
@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_kernel_compiles(name: str, capability: int) -> None:
    assert compiled(name, capability).asm["cubin"]


@pytest.mark.parametrize("name", CONFIGURATIONS)
def test_kernel_keeps_to_registers_on_sm_90(name: str, tmp_path: Path) -> None:
    cubin = tmp_path / "kernel.cubin"
    cubin.write_bytes(compiled(name, 90).asm["cubin"])
    tool = Path(triton.__file__).parent / "backends/nvidia/bin/cuobjdump"
    usage = subprocess.run([tool, "-res-usage", cubin], capture_output=True, text=True, check=True)
    figures = {key: int(value) for key, value in re.findall(r"(REG|STACK|LOCAL):(\d+)", usage.stdout + usage.stderr)}
    assert figures["STACK"] == 0 and figures["LOCAL"] == 0
    assert 0 < figures["REG"] < 255
    sass = subprocess.run([tool, "-sass", cubin], capture_output=True, text=True, check=True).stdout
    assert "LDG" in sass and not re.search(r"\b(LDL|STL)\b", sass)


@pytest.mark.parametrize("name", ["group, M=2", "draw, M=2"])
def test_rows_are_addressed_in_64_bits(name: str) -> None:
    ttir = compiled(name, 90).asm["ttir"]
    rows = re.findall(r"tt\.addptr %logits\w*, %\w+ : !tt\.ptr<\w+>, (i\d+)", ttir)
    assert rows and set(rows) == {"i64"}


@pytest.mark.parametrize("name", ["group, M=2, all", "draw, M=2"])
def test_alignment_does_not_change_the_order_of_work(name: str) -> None:
    # Row independence rests on it: a row of a batch and the same row alone may be aligned differently.
    def layouts(aligned: bool) -> list[str]:
        kernel = compiled(name, 90, aligned).asm
        assert ("tt.divisibility" in kernel["ttir"]) == aligned
        return re.findall(
            r"^#blocked.*|tt\.load .*|\"tt\.reduce.*", re.sub(r"loc\(.*?\)|%\w+", "", kernel["ttgir"]), re.M
        )

    assert layouts(True) == layouts(False)
