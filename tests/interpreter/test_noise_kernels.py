"""The kernels' noise in Triton's interpreter: the twin's words and exponentials, words that are injected."""

import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import (
    check_exponentials_are_finite_and_positive,
    check_exponentials_have_their_tail,
    check_exponentials_keep_every_bit,
    make_logits,
)
from torch import Tensor

from genarm_kernels import guided_sample
from genarm_kernels import noise as philox
from genarm_kernels.sampling import cpu, draw
from genarm_kernels.sampling.arguments import prepare

pytestmark = pytest.mark.filterwarnings("ignore::RuntimeWarning")
noise_words, sound_noise = philox.noise_words, philox.noise_kernel


@triton.jit
def words_kernel(seed, position, out, PURPOSE: tl.constexpr, N: tl.constexpr):
    ids = tl.arange(0, N)
    zero = ids * 0
    low = (tl.load(position) & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True) + zero
    high = ((tl.load(position) >> 32) & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True) + zero
    words, _, _, _ = tl.philox(tl.load(seed), ids, low, high, zero + PURPOSE)
    tl.store(out + ids, words.to(tl.int64))


@triton.jit
def noise_of_row_kernel(seed, position, out, PURPOSE: tl.constexpr, N: tl.constexpr):
    ids = tl.arange(0, N)
    tl.store(out + ids, philox.noise_kernel(tl.load(seed), tl.load(position), ids, PURPOSE))


@pytest.mark.parametrize(("seed", "position"), [(0, 0), (-1, 2**40 + 3), (2**62 + 5, -7)])
@pytest.mark.parametrize("purpose", [philox.GROUP.value, philox.TOKEN.value])
def test_the_twin_has_the_kernels_words_and_exponentials(seed: int, position: int, purpose: int) -> None:
    seeds, positions = torch.tensor([seed]), torch.tensor([position])
    words, noise = torch.empty(1024, dtype=torch.int64), torch.empty(1024)
    words_kernel[(1,)](seeds, positions, words, PURPOSE=purpose, N=1024)
    noise_of_row_kernel[(1,)](seeds, positions, noise, PURPOSE=purpose, N=1024)
    twin = philox.noise_words(seeds, positions, torch.arange(1024)[None], purpose)[0]
    assert torch.equal(words, twin)
    torch.testing.assert_close(noise, philox.exponential(twin), rtol=1e-6, atol=0)


@triton.jit
def exponentials_kernel(words, out, N: tl.constexpr):
    ids = tl.arange(0, N)
    tl.store(out + ids, philox.exponential_kernel(tl.load(words + ids).to(tl.uint32)))


def exponentials(words: Tensor) -> Tensor:
    """The kernels' exponentials of int64 words."""
    N = triton.next_power_of_2(len(words))
    padded, out = torch.zeros(N, dtype=torch.int64), torch.empty(N)
    padded[: len(words)] = words
    exponentials_kernel[(1,)](padded, out, N=N)
    return out[: len(words)]


def test_exponentials_are_finite_and_positive_for_the_outermost_words() -> None:
    check_exponentials_are_finite_and_positive(exponentials)


def test_exponentials_keep_every_bit_of_their_word() -> None:
    check_exponentials_keep_every_bit(exponentials)


def test_exponentials_have_their_tail() -> None:
    check_exponentials_have_their_tail(exponentials)


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
    seeds = torch.arange(5)
    flat, peaked = [torch.zeros(5, 3000)], make_logits(5, 3000, 1)
    # Groups of very different mass, so that the group race is decided by the noise as well as by the mass.
    steep = [torch.linspace(0, 12, 3000).expand(5, -1).contiguous()]
    for logits in (flat, peaked, steep):
        ours = guided_sample(logits, [1.0], seed=seeds)
        call = prepare(logits, [1.0], 1.0, 0, 1.0, 0.0, 0.0, 1.0, None, seeds, 0, None)
        assert torch.equal(ours.tokens, cpu.guided_sample(call, False).tokens)
