"""decode_attention's own launches, specialised by Triton as for a GPU and compiled without one."""

import re

import pytest
import torch
from compiled_launches import SHARED_BYTES, in_registers, loads, multiplying_loop, on, swept
from triton.compiler import CompiledKernel

from genarm_kernels.layer import attention

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# dtype, Q, H, H_kv, D -> registers at most. 128 threads of 168 leave an SM three programs.
SHAPES = {
    (BF16, 1, 32, 8, 128): 168,
    (BF16, 1, 32, 32, 128): 168,
    (BF16, 5, 32, 8, 128): 200,
    (BF16, 8, 64, 8, 128): 255,
    (BF16, 8, 32, 1, 128): 255,
    (BF16, 1, 16, 8, 64): 128,
    (BF16, 1, 32, 8, 96): 168,
    (BF16, 1, 16, 8, 256): 128,
    (BF16, 8, 16, 2, 256): 176,
    (FP16, 1, 32, 8, 128): 168,
    (FP32, 1, 32, 8, 128): 128,
    (FP32, 8, 32, 8, 64): 128,
    (FP32, 4, 16, 8, 256): 128,
}


def call(
    dtype: torch.dtype,
    Q: int,
    H: int,
    H_kv: int,
    D: int,
    R: int = 2,
    T: int = 4096,
    window: int = 0,
    heads_first: bool = True,
) -> None:
    query = torch.empty(R, Q, H, D, dtype=dtype)
    shape = (R, H_kv, T, D) if heads_first else (R, T, H_kv, D)
    keys, values = (torch.empty(shape, dtype=dtype) for _ in range(2))
    if heads_first:
        keys, values = keys.transpose(1, 2), values.transpose(1, 2)
    attention._launch(query, keys, values, torch.empty(R, dtype=torch.int32), 0.1, window)


USUAL = [(BF16, 1, 32, 8, 128), (BF16, 5, 32, 8, 128), (BF16, 8, 16, 2, 256), (FP32, 1, 32, 8, 128)]


@pytest.mark.parametrize(
    ("shape", "registers"),
    [item if item[0] in USUAL else swept(*item) for item in SHAPES.items()],
    ids=str,
)
def test_kernels_keep_to_registers_and_read_16_bytes_at_once(
    launched: list[CompiledKernel], shape: tuple[torch.dtype, int, int, int, int], registers: int
) -> None:
    call(*shape)
    split, combine = launched
    for kernel in launched:
        in_registers(kernel, registers)
    # The row's length, the query, then keys and values: all of them 16 bytes a lane, on their way past registers.
    reads = loads(split)
    assert reads.pop("LDG.E") == 1
    assert set(reads) == {"LDG.E.128", "LDGSTS.E.BYPASS.128"}
    assert reads["LDGSTS.E.BYPASS.128"] >= 4 * reads["LDG.E.128"] or shape[1] > 1
    assert "LDG.E.128" in loads(combine) or shape[4] < 128


@pytest.mark.parametrize(("Q", "instructions"), [(1, 350), (5, 520)])
def test_a_step_of_64_positions_takes_few_instructions(
    launched: list[CompiledKernel], Q: int, instructions: int
) -> None:
    call(BF16, Q, 32, 8, 128)
    step = multiplying_loop(launched[0])
    assert sum(step.values()) <= instructions
    # 32 KB by 128 lanes, 16 bytes each: nothing is read twice. Warps meet to compare peaks and to share weights.
    assert step["LDGSTS.E.BYPASS.128"] == 32768 / 128 / 16
    assert step["BAR.SYNC.DEFER_BLOCKING"] <= 6


def test_the_usual_shape_leaves_room_for_three_programs_a_processor(launched: list[CompiledKernel]) -> None:
    call(BF16, 1, 32, 8, 128)
    split = launched[0]
    assert 3 * (split.metadata.shared + 1024) <= 233472
    # Two steps of 16 KB of keys and as much of values are on their way while a third is worked on.
    assert split.metadata.shared >= 64 * 1024
    # Each warp has its own positions: no part of a product is worked out twice.
    assert "warpsPerCTA = [1, 4], instrShape = [16, 8]" in split.asm["ttgir"]


@pytest.mark.parametrize(
    "options", [{"window": 512}, swept({"heads_first": False}), swept({"R": 1, "T": 100})], ids=str
)
def test_other_ways_to_call_compile_to_the_same_loads(launched: list[CompiledKernel], options: dict[str, int]) -> None:
    call(BF16, 1, 32, 8, 128, **options)
    assert set(loads(launched[0])) == {"LDG.E", "LDG.E.128", "LDGSTS.E.BYPASS.128"}
    in_registers(launched[0])


@pytest.mark.parametrize("capability", [80, swept(90), 100])
def test_kernels_fit_every_device(
    launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, capability: int
) -> None:
    on(capability, monkeypatch)
    for shape in ((BF16, 1, 32, 8, 128), (FP32, 8, 16, 2, 256)):
        call(*shape)
    assert all(kernel.metadata.shared <= SHARED_BYTES[capability] for kernel in launched)


def test_neither_the_batch_nor_the_cache_s_length_compiles_anything(launched: list[CompiledKernel]) -> None:
    # One machine code is also one order of sums, so a row has the same bits in any batch and cache.
    found = set()
    for R, T in ((1, 4096), (3, 4096), (16, 8000), (2, 320), (1, 33)):
        call(BF16, 1, 8, 2, 64, R=R, T=T)
        found.add(tuple(kernel.hash for kernel in launched))
        launched.clear()
    assert len(found) == 1


def test_rows_and_positions_are_addressed_in_64_bits(launched: list[CompiledKernel]) -> None:
    call(BF16, 1, 8, 2, 64)
    pointers = re.findall(
        r"tt\.addptr %(?:keys|values|sums|query)\w*, %\w+ : !tt\.ptr<\w+>, (i\d+)", launched[0].asm["ttir"]
    )
    assert pointers and set(pointers) == {"i64"}
    in_loop = launched[0].asm["ttir"].partition("scf.for")[2]
    assert set(re.findall(r"tt\.addptr .*, (?:tensor<[\dx]+x)?(i\d+)", in_loop.partition("scf.yield")[0])) == {"i64"}
