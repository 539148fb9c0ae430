"""The two races of a draw: words that decide them, and what is drawn from flat and peaked rows at full size.

On a CPU a row of 262,144 ids is combined and summed once; what is drawn from it many times over are the races alone.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import assert_distributed, draw_many, make_logits
from torch import Tensor

from genarm_kernels import guided_sample, reference, row_seeds
from genarm_kernels import noise as philox
from genarm_kernels.sampling import cpu, draw
from genarm_kernels.sampling.arguments import prepare

V = 262144
OUTERMOST = (0, 1, 2**32 - 1)
PURPOSES = {"groups": philox.GROUP.value, "tokens": philox.TOKEN.value}
noise_words, sound_noise = philox.noise_words, philox.noise_kernel


def races(logits: Tensor, draws: int, seed: int = 1, damage: Callable[[Tensor], Tensor] = lambda sums: sums) -> Tensor:
    """Tokens [draws] of one row [1, N]; `damage` is done to the groups' sums first."""
    inputs = prepare([logits], [1.0], 1.0, 0, 1.0, 0.0, 0.0, 1.0, None, 0, 0, None)
    combined = cpu._combine(inputs)
    masses = cpu.group_masses(combined.kept, combined.inverse_temperature)
    masses = masses._replace(sums=damage(masses.sums))
    tokens = []
    for seeds in row_seeds(seed, draws).split(64):
        rows = len(seeds)
        many = masses._replace(
            peaks=masses.peaks.expand(rows, -1), sums=masses.sums.expand(rows, -1),
            inverse_temperature=masses.inverse_temperature.expand(rows),
        )  # fmt: skip
        call = replace(inputs, seeds=seeds, positions=torch.zeros_like(seeds))
        tokens.append(cpu._race(combined.kept.expand(rows, -1), many, call))
    return torch.cat(tokens)


def many(logits: Tensor, draws: int, device: str) -> Tensor:
    """Tokens of one row [1, N]; four times as many on a GPU."""
    if device == "cpu":
        return races(logits, draws)
    row, batches = [logits.to(device)], -(-4 * draws // 4096)
    return torch.cat([draw_many(row, [1.0], 4096, seed=seed) for seed in range(batches)]).cpu()


def assert_even(tokens: Tensor, size: int) -> None:
    """Over 16 coarse bins of ids, over the places in a group, and over its border."""
    even = torch.full((16,), -math.log(16))
    assert_distributed(tokens // (size // 16), even)
    assert_distributed(tokens % 1024 // 64, even)
    assert_distributed(tokens % 16, even)
    border = torch.tensor([1 / 64, 63 / 64]).log()
    assert_distributed(((tokens + 8) % 1024 >= 16).long(), border)


@pytest.mark.usefixtures("torch_path")
def test_injected_races_are_those_of_a_call() -> None:
    logits = make_logits(1, 5000, 1)[0]
    assert torch.equal(races(logits, 50), guided_sample([logits.expand(50, -1)], [1.0], seed=1).tokens)


def test_flat_logits_fill_coarse_bins_evenly(fast_device: str) -> None:
    assert_even(many(torch.zeros(1, V), 20000, fast_device), V)


@pytest.mark.parametrize(
    "damage",
    [
        lambda sums: sums * torch.where(torch.arange(sums.shape[1]) < 16, 1.5, 1.0),
        lambda sums: sums.roll(1, 1) * torch.linspace(0.5, 1.5, sums.shape[1]),
    ],
    ids=["a bin too heavy", "slanted masses"],
)
def test_a_wrong_group_mass_does_not_fill_them_evenly(damage: Callable[[Tensor], Tensor]) -> None:
    with pytest.raises(AssertionError):
        assert_even(races(torch.zeros(1, V), 6000, damage=damage), V)


def test_a_short_last_group_has_its_share(fast_device: str) -> None:
    # 50,257 ids end in a group of 81.
    tokens = many(torch.zeros(1, 50257), 10000, fast_device)
    sizes = torch.full((50,), 1024.0)
    sizes[-1] = 81
    assert_distributed(tokens // 1024, (sizes / 50257).log())
    assert int(tokens.max()) < 50257


def head_18_above() -> Tensor:
    logits = torch.zeros(1, V)
    logits[0, 12345] = 18.0
    return logits


def beyond_chance(tokens: Tensor) -> bool:
    """Whether the head is missed more or less often than it should be."""
    mean = len(tokens) * (V - 1) / (V - 1 + math.exp(18.0))
    return abs(int((tokens != 12345).sum()) - mean) >= 6 * math.sqrt(mean)


def test_a_head_18_above_its_tail_draws_as_often_as_it_should(fast_device: str) -> None:
    assert not beyond_chance(many(head_18_above(), 20000, fast_device))


def test_a_tail_that_is_lost_shows() -> None:
    # Only the head's own group is left, or every other is summed twice.
    head = torch.arange(256) == 12345 // 1024
    for damage in (lambda sums: torch.where(head, sums, 1e-9), lambda sums: torch.where(head, sums, 2 * sums)):
        assert beyond_chance(races(head_18_above(), 15000, damage=damage))


@pytest.mark.usefixtures("torch_path")
@pytest.mark.parametrize("purpose", PURPOSES.values(), ids=PURPOSES.keys())
def test_the_low_8_bits_decide_a_race(purpose: int, monkeypatch: pytest.MonkeyPatch) -> None:
    # All words of a race agree in their upper 24 bits: the smallest wins.
    low = torch.randperm(256, generator=torch.Generator().manual_seed(1))

    def words(seeds: Tensor, positions: Tensor, ids: Tensor, asked: int) -> Tensor:
        if asked != purpose:
            return noise_words(seeds, positions, ids, asked)
        return torch.where(ids % 1024 < 256, 256 * 37 + low[(ids + seeds[:, None]) % 256], 2**31)

    monkeypatch.setattr(philox, "noise_words", words)
    seeds = torch.arange(16)
    tokens = guided_sample([torch.zeros(16, 256 * 1024)], [1.0], seed=seeds).tokens
    winners = (low.argmin() - seeds) % 256 if purpose == philox.GROUP.value else None
    if winners is None:
        assert torch.equal(tokens % 1024, (low.argmin() - seeds - tokens // 1024 * 1024) % 256)
    else:
        assert torch.equal(tokens // 1024, winners)


@pytest.mark.usefixtures("torch_path")
@pytest.mark.parametrize("injected", [OUTERMOST, (0, 2**31), (2**31 - 1,)], ids=str)
@pytest.mark.parametrize("level", [(1, 2), (1,), (2,)], ids=["both", "groups", "tokens"])
def test_injected_words_draw_the_oracle_s_tokens(
    level: tuple[int, ...], injected: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    def words(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
        if purpose not in level:
            return noise_words(seeds, positions, ids, purpose)
        return torch.tensor(injected)[(ids * 7 + seeds[:, None] + purpose) % len(injected)]

    monkeypatch.setattr(philox, "noise_words", words)
    seeds = torch.arange(12)
    for logits in (torch.zeros(12, 5000), make_logits(12, 5000, 1)[0], torch.linspace(0, 12, 5000).repeat(12, 1)):
        ours = guided_sample([logits], [1.0], seed=seeds, return_logprobs=True)
        assert torch.equal(ours.tokens, reference.guided_sample([logits], [1.0], seed=seeds).tokens)
        assert bool(ours.logprobs.isfinite().all())


@pytest.mark.usefixtures("torch_path")
def test_the_smallest_word_beats_any_other_and_equal_words_the_lowest_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
        own = (ids == 3) | (ids == 3 * 1024 + 77)
        return torch.where(own, 0, torch.where(ids % 2 == 0, 1, 2**32 - 1)).expand(len(seeds), -1)

    monkeypatch.setattr(philox, "noise_words", words)
    assert guided_sample([torch.zeros(2, 5000)], [1.0]).tokens.tolist() == [3 * 1024 + 77] * 2
    for word in OUTERMOST:
        monkeypatch.setattr(philox, "noise_words", lambda s, p, ids, purpose, x=word: (ids * 0 + x).expand(len(s), -1))
        assert guided_sample([torch.zeros(2, 5000)], [1.0]).tokens.tolist() == [0, 0]


@triton.jit
def injected_noise(seed, position, ids, PURPOSE: tl.constexpr):
    """Words 0, 1, 2³¹ − 1, 2³¹ and 2³² − 1 in turn."""
    turn = (ids * 7 + seed.to(tl.int32) + PURPOSE) % 5
    words = tl.where(turn == 0, 0, tl.where(turn == 1, 1, tl.where(turn == 2, 0x7FFFFFFF, 0)))
    words = words.to(tl.uint32) + tl.where(turn == 3, 0x80000000, tl.where(turn == 4, 0xFFFFFFFF, 0)).to(tl.uint32)
    return philox.exponential_kernel(words)


@triton.jit
def injected_for_groups(seed, position, ids, PURPOSE: tl.constexpr):
    return injected_noise(seed, position, ids, PURPOSE) if PURPOSE == 1 else sound_noise(seed, position, ids, PURPOSE)


@triton.jit
def injected_for_tokens(seed, position, ids, PURPOSE: tl.constexpr):
    return injected_noise(seed, position, ids, PURPOSE) if PURPOSE == 2 else sound_noise(seed, position, ids, PURPOSE)


LEVELS = {
    "both": ((1, 2), injected_noise),
    "groups": ((1,), injected_for_groups),
    "tokens": ((2,), injected_for_tokens),
}


@pytest.mark.interpreter
@pytest.mark.parametrize("level", LEVELS)
def test_injected_words_draw_the_twin_s_tokens(level: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert (philox.GROUP.value, philox.TOKEN.value) == (1, 2)
    purposes, kernel = LEVELS[level]

    def words(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
        if purpose not in purposes:
            return noise_words(seeds, positions, ids, purpose)
        return torch.tensor([0, 1, 2**31 - 1, 2**31, 2**32 - 1])[(ids * 7 + seeds[:, None] + purpose) % 5]

    monkeypatch.setattr(philox, "noise_words", words)
    monkeypatch.setattr(draw, "noise_kernel", kernel)
    seeds = torch.arange(3)
    flat, peaked = [torch.zeros(3, 3000)], make_logits(3, 3000, 1)
    # Groups of very different mass, so that the group race is decided by the noise as well as by the mass.
    steep = [torch.linspace(0, 12, 3000).expand(3, -1).contiguous()]
    for logits in (flat, peaked, steep):
        ours = guided_sample(logits, [1.0], seed=seeds)
        call = prepare(logits, [1.0], 1.0, 0, 1.0, 0.0, 0.0, 1.0, None, seeds, 0, None)
        assert torch.equal(ours.tokens, cpu.guided_sample(call, False).tokens)
