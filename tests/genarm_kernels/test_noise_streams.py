"""The races' noise: its tail, words that decide them, flat and peaked rows at full size, pairs without duplicates.

A row of 262,144 ids is combined and summed once; what is drawn from it many times over are the two races alone.
"""

import math
from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from kernel_cases import (
    assert_distributed,
    check_exponentials_have_their_tail,
    check_pairs_share_no_noise,
    make_logits,
)
from torch import Tensor

from genarm_kernels import guided_sample, reference, row_seeds
from genarm_kernels import noise as philox
from genarm_kernels.sampling import cpu
from genarm_kernels.sampling.arguments import prepare

pytestmark = pytest.mark.usefixtures("torch_path")  # words are put in place of its own
V = 262144
OUTERMOST = (0, 1, 2**32 - 1)
PURPOSES = {"groups": philox.GROUP.value, "tokens": philox.TOKEN.value}
noise_words = philox.noise_words


def races(logits: Tensor, draws: int, seed: int = 1, damage: Callable[[Tensor], Tensor] = lambda sums: sums) -> Tensor:
    """Tokens [draws] of one row [1, N]; `damage` is done to the groups' sums first."""
    inputs = prepare([logits], [1.0], 1.0, 0, 1.0, 0.0, 0.0, 1.0, None, 0, 0, None)
    combined = cpu._combine(inputs, False)
    masses = cpu._group_masses(combined.kept, combined.inverse_temperature)
    masses = masses._replace(sums=damage(masses.sums))
    tokens = []
    for seeds in row_seeds(seed, draws).split(64):
        rows = len(seeds)
        many = cpu._Masses(*(x.expand(rows, -1) for x in masses))
        call = replace(inputs, seeds=seeds, positions=torch.zeros_like(seeds))
        tokens.append(cpu._race(combined.kept.expand(rows, -1), many, call))
    return torch.cat(tokens)


def assert_even(tokens: Tensor, size: int) -> None:
    """Over 16 coarse bins of ids, over the places in a group, and over its border."""
    even = torch.full((16,), -math.log(16))
    assert_distributed(tokens // (size // 16), even)
    assert_distributed(tokens % 1024 // 64, even)
    assert_distributed(tokens % 16, even)
    border = torch.tensor([1 / 64, 63 / 64]).log()
    assert_distributed(((tokens + 8) % 1024 >= 16).long(), border)


def test_injected_races_are_those_of_a_call() -> None:
    logits = make_logits(1, 5000, 1)[0]
    assert torch.equal(races(logits, 50), guided_sample([logits.expand(50, -1)], [1.0], seed=1).tokens)


def test_flat_logits_fill_coarse_bins_evenly() -> None:
    assert_even(races(torch.zeros(1, V), 30000), V)


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


def test_a_short_last_group_has_its_share() -> None:
    # 50,257 ids end in a group of 81.
    tokens = races(torch.zeros(1, 50257), 10000)
    sizes = torch.full((50,), 1024.0)
    sizes[-1] = 81
    assert_distributed(tokens // 1024, (sizes / 50257).log())
    assert int(tokens.max()) < 50257


def tail_of_a_head_18_above(draws: int, **options: object) -> tuple[int, float]:
    """How many tokens are not the head, and how many should be."""
    logits = torch.zeros(1, V)
    logits[0, 12345] = 18.0
    tokens = races(logits, draws, **options)
    return int((tokens != 12345).sum()), draws * (V - 1) / (V - 1 + math.exp(18.0))


def test_a_head_18_above_its_tail_draws_as_often_as_it_should() -> None:
    count, mean = tail_of_a_head_18_above(30000)
    assert abs(count - mean) < 6 * math.sqrt(mean)


def test_a_tail_that_is_lost_shows() -> None:
    # Only the head's own group is left, or every other is summed twice.
    head = torch.arange(256) == 12345 // 1024
    for damage in (lambda sums: torch.where(head, sums, 1e-9), lambda sums: torch.where(head, sums, 2 * sums)):
        count, mean = tail_of_a_head_18_above(30000, damage=damage)
        assert abs(count - mean) > 6 * math.sqrt(mean)


def test_exponentials_have_their_tail() -> None:
    check_exponentials_have_their_tail(philox.exponential)


@pytest.mark.parametrize("injected", [(0, 1, 2**32 - 1), (0, 2**31), (0,), (2**31 - 1,), (2**32 - 1,)])
def test_injected_words_draw_the_oracle_s_tokens(monkeypatch: pytest.MonkeyPatch, injected: tuple[int, ...]) -> None:
    def words(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
        return torch.tensor(injected)[(ids * 7 + seeds[:, None] + purpose) % len(injected)]

    monkeypatch.setattr(philox, "noise_words", words)
    flat = [torch.zeros(8, 3000)]
    for logits in (flat, make_logits(8, 3000, 1)):
        ours = guided_sample(logits, [1.0], seed=torch.arange(8))
        assert torch.equal(ours.tokens, reference.guided_sample(logits, [1.0], seed=torch.arange(8)).tokens)


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


@pytest.mark.parametrize("purpose", PURPOSES.values(), ids=PURPOSES.keys())
def test_outermost_words_at_one_level_draw_the_oracle_s_tokens(purpose: int, monkeypatch: pytest.MonkeyPatch) -> None:
    def words(seeds: Tensor, positions: Tensor, ids: Tensor, asked: int) -> Tensor:
        if asked != purpose:
            return noise_words(seeds, positions, ids, asked)
        return torch.tensor(OUTERMOST)[(ids * 7 + seeds[:, None]) % 3]

    monkeypatch.setattr(philox, "noise_words", words)
    seeds = torch.arange(12)
    for logits in (torch.zeros(12, 5000), make_logits(12, 5000, 1)[0], torch.linspace(0, 12, 5000).repeat(12, 1)):
        ours = guided_sample([logits], [1.0], seed=seeds, return_logprobs=True)
        assert torch.equal(ours.tokens, reference.guided_sample([logits], [1.0], seed=seeds).tokens)
        assert bool(ours.logprobs.isfinite().all())


def test_the_smallest_word_beats_any_other_and_equal_words_the_lowest_id(monkeypatch: pytest.MonkeyPatch) -> None:
    def words(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
        own = (ids == 3) | (ids == 3 * 1024 + 77)
        return torch.where(own, 0, torch.where(ids % 2 == 0, 1, 2**32 - 1)).expand(len(seeds), -1)

    monkeypatch.setattr(philox, "noise_words", words)
    assert guided_sample([torch.zeros(2, 5000)], [1.0]).tokens.tolist() == [3 * 1024 + 77] * 2
    for word in OUTERMOST:
        monkeypatch.setattr(philox, "noise_words", lambda s, p, ids, purpose, x=word: (ids * 0 + x).expand(len(s), -1))
        assert guided_sample([torch.zeros(2, 5000)], [1.0]).tokens.tolist() == [0, 0]


def test_a_million_pairs_share_no_noise() -> None:
    check_pairs_share_no_noise(philox.noise_words)


def test_neighbouring_batch_seeds_rows_and_positions_have_uncorrelated_exponentials() -> None:
    ids = torch.arange(4096)[None]
    seeds = torch.cat([row_seeds(seed, 8) for seed in range(4)])
    positions = torch.arange(32) % 4
    for purpose in PURPOSES.values():
        noise = philox.exponential(noise_words(seeds, positions, ids, purpose)).double()
        correlation = torch.corrcoef(noise) - torch.eye(32)
        assert float(correlation.abs().max()) < 6 / math.sqrt(4096)
        shifted = torch.corrcoef(torch.stack([noise[0, :-1], noise[0, 1:], noise[0].roll(7)[1:]])) - torch.eye(3)
        assert float(shifted.abs().max()) < 6 / math.sqrt(4096)
