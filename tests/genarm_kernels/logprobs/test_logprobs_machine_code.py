"""token_logprobs' own launches, specialised by Triton as for a GPU and compiled without one."""

import re
from collections import Counter

import pytest
import torch
from compiled_launches import in_registers, loops, on, sass, swept
from triton.compiler import CompiledKernel

from genarm_kernels.logprobs import kernels

# 256 threads of 80 registers: three programs an SM.
MOST_REGISTERS = 80
# A lane's logits in a block.
LOGITS_A_LANE = {torch.bfloat16: 32, torch.float16: 32, torch.float32: 16}
MOST_INSTRUCTIONS, MOST_OF_A_PIECE = {"sums": 12, "slopes": 18.5}, 130


def rows(C: int, V: int, dtype: torch.dtype, slopes: bool = True) -> None:
    logits = torch.empty(C, -(-V // 64) * 64, dtype=dtype)[:, :V]
    token_ids, logprobs, totals = torch.empty(C, dtype=torch.int64), torch.empty(C), torch.empty(C)
    kernels.finish_rows(logits, token_ids, -100, logprobs, totals, slopes)


def columns(N: int, width: int, dtype: torch.dtype) -> None:
    logits, token_ids = torch.empty(N, 4096, dtype=dtype)[:, :width], torch.empty(N, dtype=torch.int64)
    kernels.finish_columns(logits, token_ids, -100, torch.empty(N), torch.empty(N), 70)


def loading_loops(kernel: CompiledKernel) -> list[Counter[str]]:
    return [body for body in loops(kernel) if any(name.startswith("LDG") for name in body)]


def moves(names: Counter[str]) -> dict[str, int]:
    return {name: count for name, count in names.items() if re.match("LDG|STG", name)}


@pytest.mark.parametrize(
    ("dtype", "V"),
    [(torch.bfloat16, 128256), (torch.float32, 50257), *(swept(torch.float16, V) for V in (32000, 50257, 128256)),
     swept(torch.bfloat16, 32000), swept(torch.bfloat16, 50257), swept(torch.float32, 32000)],
    ids=str,
)  # fmt: skip
def test_whole_blocks_move_by_16_bytes_in_few_registers(
    launched: list[CompiledKernel], dtype: torch.dtype, V: int
) -> None:
    rows(512, V, dtype)
    (kernel,) = launched
    in_registers(kernel, MOST_REGISTERS)
    # Whole pieces' blocks, these pieces, the last piece's blocks, and all blocks again.
    sums, pieces, last, slopes = loading_loops(kernel)
    assert moves(sums) == moves(pieces) == moves(last) == {"LDG.E.128": 4}
    assert moves(slopes) == {"LDG.E.128": 4, "STG.E.128": 4}
    assert max(sums.total(), last.total()) <= MOST_INSTRUCTIONS["sums"] * LOGITS_A_LANE[dtype]
    assert pieces.total() - sums.total() <= MOST_OF_A_PIECE
    assert slopes.total() <= MOST_INSTRUCTIONS["slopes"] * LOGITS_A_LANE[dtype]


@pytest.mark.parametrize("dtype", [torch.bfloat16, swept(torch.float16), swept(torch.float32)], ids=str)
def test_the_last_block_and_columns_move_by_16_bytes_too(launched: list[CompiledKernel], dtype: torch.dtype) -> None:
    rows(64, 50257, dtype)
    columns(900, 1157, dtype)
    narrow = re.compile(r"(?:LDG|STG)\.E(?!\.128)")
    for kernel in launched:
        in_registers(kernel, MOST_REGISTERS)
        # What is left are a row's token, its logit, total and grad, results, and pieces' peaks and sums.
        assert len(narrow.findall(sass(kernel))) <= 8


def test_a_row_s_pieces_are_added_alike_together_and_apart(launched: list[CompiledKernel]) -> None:
    reduced = []
    for C in (64, 512):
        rows(C, 50257, torch.bfloat16, slopes=False)
        text = launched[-1].asm["ttgir"]
        layouts = dict(re.findall(r"^(#\w+) = (.*)$", text, re.M))
        found = re.findall(r"\"tt\.reduce\".*?\}\) : \((tensor<[\w]+), (#\w+)>", text, re.S)
        reduced.append([(kind, layouts[name]) for kind, name in found if kind.startswith("tensor<32x")])
    assert reduced[0] == reduced[1] and len(reduced[0]) == 2


@pytest.mark.parametrize("capability", [80, swept(100)])
def test_other_devices_get_it_too(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    on(capability, monkeypatch)
    for C in (64, 512):
        rows(C, 50257, torch.bfloat16)
    columns(900, 1157, torch.float32)
    for kernel in launched:
        assert kernel.metadata.target.arch == capability
        in_registers(kernel)


def test_every_size_and_float64_compile(launched: list[CompiledKernel]) -> None:
    for V in (1, 1023):
        rows(3, V, torch.bfloat16)
    logits, token_ids = torch.empty(300, 64, dtype=torch.float64), torch.empty(300, dtype=torch.int64)
    results = torch.empty(2, 300, dtype=torch.float64)
    kernels.finish_rows(logits, token_ids, -100, *results, True)
    kernels.finish_columns(logits, token_ids, -100, *results, 0)
    for kernel in launched:
        in_registers(kernel)


def test_other_vocabularies_rows_and_columns_compile_nothing(launched: list[CompiledKernel]) -> None:
    for C, V in ((300, 50257), (512, 128256), (1, 32000)):
        rows(max(C, 264), V, torch.bfloat16)
        columns(C, 1157 + C, torch.bfloat16)
    assert len({kernel.hash for kernel in launched}) == 2


def test_rows_are_addressed_in_64_bits(launched: list[CompiledKernel]) -> None:
    rows(512, 128256, torch.bfloat16)
    columns(900, 4096, torch.bfloat16)
    for kernel in launched:
        assert re.search(r"%z\w* = arith\.muli %\w+, %\w+ : i64", kernel.asm["ttir"])
