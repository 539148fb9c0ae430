"""shared_attention's own launches, specialised by Triton as for a GPU and compiled without one."""

import re

import pytest
import torch
from compiled_launches import in_registers, loads, loops, on, swept
from triton.compiler import CompiledKernel

from genarm_kernels import card, new_sharing
from genarm_kernels.card import CARDS
from genarm_kernels.layer import attention
from genarm_kernels.layer.attention_layout import layout, shared_bytes, stages
from genarm_kernels.layer.prefixes import Prefixes, wide_layout

BF16, FP16, FP32 = torch.bfloat16, torch.float16, torch.float32
Shape = tuple[torch.dtype, int, int, int, int]  # dtype, Q, H, H_kv, D
SHAPES: list[Shape] = [
    (BF16, 1, 32, 8, 128),
    (BF16, 1, 16, 8, 64),
    (BF16, 1, 32, 8, 96),
    (BF16, 8, 16, 2, 256),
    (FP16, 5, 32, 8, 128),
    (FP32, 1, 32, 8, 128),
    (FP32, 8, 32, 8, 64),
    (FP32, 4, 16, 8, 256),
]


def call(
    dtype: torch.dtype, Q: int, H: int, H_kv: int, D: int, R: int = 4, P: int = 2, T: int = 512, T_p: int = 4096,
    window: int = 0,
) -> None:  # fmt: skip
    keys, values, *prefix = (
        torch.empty(n, H_kv, places, D, dtype=dtype).transpose(1, 2) for n, places in [(R, T)] * 2 + [(P, T_p)] * 2
    )
    query, lengths = torch.empty(R, Q, H, D, dtype=dtype), torch.empty(R, dtype=torch.int32)
    arrivals = attention.new_arrivals(R, H, H_kv, "cpu")
    prefixes = Prefixes(*prefix, new_sharing(R, P, "cpu"))
    attention.launch(query, keys, values, lengths, 0.1, window, arrivals, prefixes)


@pytest.mark.parametrize("shape", [SHAPES[0], *map(swept, SHAPES[1:])], ids=str)
def test_kernels_keep_to_registers_and_read_16_bytes_at_once(launched: list[CompiledKernel], shape: Shape) -> None:
    for window in (0, 512) if shape[4] == 128 else (0,):
        launched.clear()
        call(*shape, window=window)
        read, added = launched
        assert (read.name, added.name) == ("prefixes_kernel", "attention_kernel")
        wide, own = wide_layout(shape[0], shape[4]), layout(shape[0], shape[4], shape[1] * shape[2] // shape[3])
        in_registers(read, wide.registers, f"prefixes, {shape[0]}, D={shape[4]}".replace("torch.", ""))
        in_registers(added, own.registers)
        # Keys and values go past registers, 16 bytes a lane; rows and what they share come one by one.
        assert set(loads(read)) == {"LDG.E", "LDG.E.128", "LDGSTS.E.BYPASS.128", "LDG.E.STRONG.GPU"}
        assert read.metadata.shared <= shared_bytes(wide, stages(wide, CARDS["H200"]), CARDS["H200"])


def test_a_step_of_64_positions_is_read_once_for_64_queries(launched: list[CompiledKernel]) -> None:
    call(BF16, 1, 32, 8, 128)
    step = min((body for body in loops(launched[0]) if body["LDGSTS.E.BYPASS.128"]), key=lambda body: body.total())
    assert step.total() <= 460
    # 32 KB by 256 lanes, 16 bytes each, and nothing that spilled.
    assert step["LDGSTS.E.BYPASS.128"] == 32768 / 256 / 16 and not {"LDL", "STL", "LDG.E"} & {*step}


def test_neither_rows_nor_prefixes_nor_lengths_compile_anything(launched: list[CompiledKernel]) -> None:
    # One machine code is also one order of sums, so a row has the same bits whoever shares.
    found = set()
    for R, P, T, T_p in ((1, 1, 320, 4096), (3, 2, 4096, 320), (64, 16, 33, 8000)):
        call(BF16, 1, 8, 2, 64, R=R, P=P, T=T, T_p=T_p)
        found.add(tuple(kernel.hash for kernel in launched))
        launched.clear()
    assert len(found) == 1


@pytest.mark.parametrize("name", [swept("H100 PCIe"), swept("A100"), "L4", swept("B200")])
def test_kernels_fit_every_card(launched: list[CompiledKernel], monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    own = CARDS[name]
    on(10 * own.capability[0] + own.capability[1], monkeypatch)
    monkeypatch.setattr(card, "card_of", lambda _device: own)
    for dtype, Q, H, H_kv, D in SHAPES[3:4] if name == "L4" else SHAPES:
        launched.clear()
        call(dtype, Q, H, H_kv, D)
        plan = wide_layout(dtype, D)
        in_registers(launched[0], plan.registers, f"prefixes, {dtype}, D={D}".replace("torch.", ""))
        assert launched[0].metadata.shared <= shared_bytes(plan, stages(plan, own), own) <= own.shared_per_program


def test_prefixes_rows_and_positions_are_addressed_in_64_bits(launched: list[CompiledKernel]) -> None:
    call(BF16, 1, 8, 2, 64)
    text = launched[0].asm["ttir"]
    pointers = re.findall(r"tt\.addptr %(?:keys|values)\w*, %\w+ : !tt\.ptr<\w+>, (i\d+)", text)
    assert pointers and set(pointers) == {"i64"}
    stored = re.findall(r"tt\.addptr %\w+, %\w+ : tensor<[\dx]+x!tt\.ptr<f32>>, tensor<[\dx]+x(i\d+)>", text)
    assert "i64" in stored
