"""What launchers choose for the GPUs that are listed: a device's properties, grids that fill it, memory that fits."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from types import SimpleNamespace

import pytest
import torch
from compiled_launches import compile_only, on, swept
from triton.compiler import CompiledKernel
from triton.runtime import driver

from genarm_kernels import card
from genarm_kernels.card import CARDS, PROGRAM_BYTES, Card
from genarm_kernels.layer import linear
from genarm_kernels.layer.cut import SCALE_BYTES, STEP_BYTES, Configuration, configuration
from genarm_kernels.logprobs import kernels as logprobs
from genarm_kernels.particles import follow
from genarm_kernels.sampling import combine

EVERY = pytest.mark.parametrize("own", CARDS.values(), ids=CARDS.keys())
# qkv, o, gate_up, down and head, [N, H].
LAYERS = {
    "Llama-3.1-8B": [(6144, 4096), (4096, 4096), (28672, 4096), (4096, 14336), (128256, 4096)],
    "Llama-2-7B": [(12288, 4096), (4096, 4096), (22016, 4096), (4096, 11008), (32000, 4096)],
    "Qwen3-0.6B": [(4096, 1024), (1024, 2048), (6144, 1024), (1024, 3072), (151936, 1024)],
    "Qwen3-8B": [(6144, 4096), (4096, 4096), (24576, 4096), (4096, 12288), (151936, 4096)],
}
SHRINKS = (0, 16, 144)  # rows of adapters' A below W's own
LATENCY = 1e-6  # of a load from memory, under load


@pytest.fixture
def gpus(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[SimpleNamespace]]:
    """A machine with two GPUs, the second of which is the current one; its driver says what is in these."""
    found = [
        SimpleNamespace(
            name=name, major=9, minor=0, multi_processor_count=processors, shared_memory_per_multiprocessor=233472,
            own={"max_shared_mem": 232448, "mem_clock_rate": clock, "mem_bus_width": 5120},
        )
        for name, processors, clock in (("one", 132, 2619000), ("other", 78, 0))
    ]  # fmt: skip
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: found[index])
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 1)
    utils = SimpleNamespace(get_device_properties=lambda index: found[index].own)
    monkeypatch.setattr(driver, "_active", SimpleNamespace(utils=utils))
    card._card.cache_clear()
    yield found
    card._card.cache_clear()


def test_a_device_s_properties_are_its_card(gpus: list[SimpleNamespace], monkeypatch: pytest.MonkeyPatch) -> None:
    one = card.card_of(torch.device("cuda", 0))
    assert one == Card("one", (9, 0), 132, 232448, 233472, one.bandwidth)
    # An H100's: 5,120 bits twice per clock of 2,619 MHz.
    assert one.bandwidth == pytest.approx(CARDS["H100 SXM"].bandwidth, rel=0.01)
    # Without a number "cuda" is the current device, whichever it is at the time.
    assert card.card_of(torch.device("cuda")).name == "other"
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    assert card.card_of(torch.device("cuda")) is one


def test_a_driver_that_says_no_clock_gets_a_bandwidth_by_processors(gpus: list[SimpleNamespace]) -> None:
    h200 = CARDS["H200"]
    assert card.card_of(torch.device("cuda", 1)).bandwidth == pytest.approx(h200.bandwidth * 78 / h200.processors)


def test_a_cpu_s_kernels_are_cut_for_an_h200() -> None:
    assert card.card_of(torch.device("cpu")) is CARDS["H200"]


def shapes() -> Iterator[tuple[int, int, int, bool]]:
    """Rows, N, H and whether the input is normed, of every product of a step."""
    for layers in LAYERS.values():
        for (N, H), shrinks, R in itertools.product(layers, SHRINKS, (1, 16)):
            yield R, N + shrinks, H, layers[0][1] == H


@EVERY
def test_products_keep_the_memory_busy_and_fit_in_shared_memory(own: Card) -> None:
    for R, N, H, normed in shapes():
        cut = configuration(R, N, H, 2, own, normed)
        programs = -(-N // cut.BLOCK_N) * cut.splits
        each = 1 if programs <= own.processors else 2
        shared = cut.depth * (cut.BLOCK_N + cut.ROWS + normed) * STEP_BYTES + SCALE_BYTES * normed
        assert shared <= own.shared_per_program
        assert each * (shared + PROGRAM_BYTES) <= own.shared_per_processor, (N, H)
        # All at a time where there are no more than places.
        assert programs <= each * own.processors or 2 * own.processors < -(-N // 32)
        # The memory waits for no wave, the last and smallest included: narrow layers alone have too little on its way.
        waited = in_waves(cut, programs, each * own.processors, H, own) / (2 * N * H / own.bandwidth)
        assert waited <= (1.25 if N >= 2048 else 2), (N, H, waited)


def in_waves(cut: Configuration, programs: int, places: int, H: int, own: Card) -> float:
    """Seconds of waves one after the other, each as fast as the memory or as its steps' loads come back."""
    alone = -(-2 * H // STEP_BYTES) / cut.depth * LATENCY
    waves = [places] * (programs // places) + [programs % places] * (programs % places > 0)
    return sum(max(alone, wave * cut.BLOCK_N * 2 * H / own.bandwidth) for wave in waves)


@EVERY
def test_products_of_our_models_are_summed_in_one_order_on_every_card(own: Card) -> None:
    assert {configuration(R, N, H, 2, own, normed).splits for R, N, H, normed in shapes()} == {1}


@EVERY
def test_a_product_is_summed_in_one_order_on_one_card_and_few_tiles_alone_in_its_own(own: Card) -> None:
    for N, H in ((512, 14336), (1000, 14336), (1, 100_000)):
        assert len({configuration(R, N, H, 2, own)[3:] for R in range(1, 65)}) == 1
    parts = {"L4": 1, "A100": 1, "RTX 4090": 1, "H100 PCIe": 1, "H20": 4}
    assert configuration(1, 512, 14336, 2, own).splits == parts.get(own.name, 8)
    assert configuration(1, 32 * 66, 10**6, 2, own).splits == 1


@EVERY
def test_rows_of_logits_have_programs_for_every_processor(own: Card) -> None:
    for C, V in itertools.product((1, 8, own.processors, 2 * own.processors - 1, 2 * own.processors), (32000, 128256)):
        _, pieces = logprobs.cut(V, 2)
        apart = logprobs.are_apart(C, own.processors)
        programs = C * pieces if apart else C
        assert programs >= min(2 * own.processors, C * pieces)
        # One per row as soon as rows are enough: each then stays in L2.
        assert apart == (own.processors * 2 > C)


@EVERY
def test_groups_share_a_program_where_there_are_many_for_every_processor(own: Card) -> None:
    for B, V in itertools.product((1, 8, 64, 512, 4096), (32000, 128256, 151936)):
        G = -(-V // 1024)
        count = combine.groups_a_program(B, G, own.processors)
        assert 1 <= count <= combine.MOST_GROUPS
        assert count == 1 or B * G // count >= combine.PROGRAMS * own.processors
        more = (count + 1) * combine.PROGRAMS * own.processors
        assert count == combine.MOST_GROUPS or more > B * G


@EVERY
def test_rows_that_follow_share_every_processor(own: Card) -> None:
    tails = 32 * 2 * 8
    for R in (1, 7, 64, 512, 100_000):
        each = follow.shares(R, tails, own.processors)
        assert 1 <= each <= tails
        assert each == tails or R * each >= follow.PROGRAMS * own.processors
        # And no more than a row needs: a row that stays costs each of them a load.
        assert each == 1 or follow.PROGRAMS * own.processors > R * (each - 1)


@pytest.fixture
def compiled(monkeypatch: pytest.MonkeyPatch, own: Card) -> list[CompiledKernel]:
    """Every kernel that a call would have launched on this card."""
    kernels = compile_only(monkeypatch)
    on(own.capability[0] * 10 + own.capability[1], monkeypatch)
    monkeypatch.setattr(card, "card_of", lambda device: own)
    return kernels


@pytest.mark.parametrize("own", [CARDS["L4"], *(swept(own) for own in CARDS.values() if own.name != "L4")])
def test_products_take_the_shared_memory_that_was_reckoned_with(own: Card, compiled: list[CompiledKernel]) -> None:
    for R, N in ((16, 4144), (1, 28688)) if own.name != "L4" else ((16, 4144),):
        x, weight = (torch.empty(rows, 4096, dtype=torch.bfloat16) for rows in (R, N))
        linear.linear_by_kernel(x, weight)
        cut = configuration(R, N, 4096, 2, own)
        assert compiled[-1].metadata.shared == cut.depth * (cut.BLOCK_N + cut.ROWS) * STEP_BYTES
        assert compiled[-1].metadata.shared <= own.shared_per_program
