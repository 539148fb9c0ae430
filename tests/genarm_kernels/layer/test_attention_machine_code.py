"""decode_attention's own launches, specialised by Triton as for a GPU and compiled without one."""

import re

import pytest
import torch
from compiled_launches import in_registers, loads, multiplying_loop, on, sass, swept
from triton.compiler import CompiledKernel

from genarm_kernels import card
from genarm_kernels.card import CARDS
from genarm_kernels.layer import attention
from genarm_kernels.layer.attention_layout import STAGES, layout, shared_bytes, stages

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
# dtype, Q, H, H_kv, D -> registers at most. 128 threads of 168 leave an SM three programs.
SHAPES = {
    (BF16, 1, 32, 8, 128): 168,
    (BF16, 1, 32, 32, 128): 168,
    (BF16, 5, 32, 8, 128): 255,
    (BF16, 8, 64, 8, 128): 255,
    (BF16, 8, 32, 1, 128): 255,
    (BF16, 1, 16, 8, 64): 168,
    (BF16, 1, 32, 8, 96): 168,
    (BF16, 1, 16, 8, 256): 128,
    (BF16, 8, 16, 2, 256): 255,
    (FP16, 1, 32, 8, 128): 168,
    (FP32, 1, 32, 8, 128): 128,
    (FP32, 8, 32, 8, 64): 255,
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
    arrivals = attention.new_arrivals(R, H, H_kv, "cpu")
    attention.launch(query, keys, values, torch.empty(R, dtype=torch.int32), 0.1, window, arrivals)


USUAL = [(BF16, 1, 32, 8, 128), (BF16, 8, 16, 2, 256)]


@pytest.mark.parametrize(
    ("shape", "registers"),
    [item if item[0] in USUAL else swept(*item) for item in SHAPES.items()],
    ids=str,
)
def test_kernels_keep_to_registers_and_read_16_bytes_at_once(
    launched: list[CompiledKernel], shape: tuple[torch.dtype, int, int, int, int], registers: int
) -> None:
    call(*shape)
    (kernel,) = launched
    in_registers(kernel, registers)
    # The row's length, the query, then keys and values: all of them 16 bytes a lane, on their way past registers.
    reads = loads(kernel)
    assert reads.pop("LDG.E") == 1
    parts = {name: reads.pop(name) for name in [*reads] if name.endswith("STRONG.GPU")}
    assert set(reads) == {"LDG.E.128", "LDGSTS.E.BYPASS.128"}
    assert reads["LDGSTS.E.BYPASS.128"] >= 4 * reads["LDG.E.128"] or shape[1] > 1
    # What other programs wrote, past L1: all of a round's before the first is used, 64 registers per lane.
    assert parts.keys() <= {"LDG.E.STRONG.GPU", "LDG.E.64.STRONG.GPU", "LDG.E.128.STRONG.GPU"}
    assert sass(kernel).count("ATOMG.E.ADD.STRONG.GPU") == 1
    plan = layout(shape[0], shape[4], shape[1] * shape[2] // shape[3])
    assert kernel.metadata.shared <= shared_bytes(plan, STAGES, CARDS["H200"]) <= 1.1 * kernel.metadata.shared


@pytest.mark.parametrize(("Q", "instructions"), [(1, 350), swept(5, 520)])
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
    (kernel,) = launched
    assert 3 * (kernel.metadata.shared + 1024) <= 233472
    # Two steps of 16 KB of keys and as much of values are on their way while a third is worked on.
    assert kernel.metadata.shared >= 64 * 1024
    # Each warp has its own positions: no part of a product is worked out twice.
    assert "warpsPerCTA = [1, 4], instrShape = [16, 8]" in kernel.asm["ttgir"]


@pytest.mark.parametrize(
    "options", [{"window": 512}, swept({"heads_first": False}), swept({"R": 1, "T": 100})], ids=str
)
def test_other_ways_to_call_compile_to_the_same_loads(launched: list[CompiledKernel], options: dict[str, int]) -> None:
    call(BF16, 1, 32, 8, 128, **options)
    reads = {name for name in loads(launched[0]) if not name.endswith("STRONG.GPU")}
    assert reads == {"LDG.E", "LDG.E.128", "LDGSTS.E.BYPASS.128"}
    in_registers(launched[0])


@pytest.mark.parametrize("name", [swept("H100 PCIe"), swept("A100"), "L4", swept("B200")])
def test_kernels_fit_every_card(launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own = CARDS[name]
    on(10 * own.capability[0] + own.capability[1], monkeypatch)
    monkeypatch.setattr(card, "card_of", lambda _device: own)
    shapes = [(BF16, 8, 16, 2, 256), (BF16, 1, 32, 8, 128), (FP32, 8, 16, 2, 256), (BF16, 8, 64, 8, 128)]
    for dtype, Q, H, H_kv, D in shapes[: 1 if name == "L4" else None]:
        call(dtype, Q, H, H_kv, D)
        plan = layout(dtype, D, Q * H // H_kv)
        in_registers(launched[-1], plan.registers)
        assert launched[-1].metadata.shared <= shared_bytes(plan, stages(plan, own), own) <= own.shared_per_program


def test_a_call_is_one_launch(launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    monkeypatch.setattr(torch, "zeros", lambda *shape, **options: made.append(shape))
    query, cached = torch.empty(2, 1, 8, 64, dtype=BF16), torch.empty(2, 100, 2, 64, dtype=BF16)
    lengths, arrivals = torch.empty(2, dtype=torch.int32), torch.empty(16, dtype=torch.int32)
    attention.launch(query, cached, cached, lengths, 0.1, 0, arrivals)
    assert len(launched) == 1 and not made


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
