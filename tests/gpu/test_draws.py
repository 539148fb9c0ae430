"""What is drawn on a GPU, at full size: distributions, head and tail, coarse bins, the noise underneath."""

import math

import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import (
    FILTERS,
    assert_distributed,
    check_exponentials_are_finite_and_positive,
    check_exponentials_have_their_tail,
    check_exponentials_keep_every_bit,
    check_pairs_share_no_noise,
    draw_many,
    make_logits,
)
from torch import Tensor

from genarm_kernels import noise, reference, row_seeds

pytestmark = pytest.mark.skipif(not torch.cuda.is_available(), reason="NOT RUN: this machine has no CUDA device")
CUDA = "cuda"


@pytest.mark.parametrize("name", ["none", "temperature", "all"])
def test_tokens_have_the_guided_distribution(name: str) -> None:
    logits = make_logits(1, 5000, 2, device=CUDA)
    log_probs = reference.guided_log_probs(logits, [1.0, 0.7], **FILTERS[name])[0]
    tokens = [draw_many(logits, [1.0, 0.7], 20000, seed=seed, **FILTERS[name]) for seed in range(5)]
    assert_distributed(torch.cat(tokens), log_probs)


def test_a_head_18_above_its_tail_draws_as_often_as_it_should() -> None:
    V, draws, batches = 262144, 4096, 50
    logits = torch.zeros(1, V, device=CUDA)
    logits[0, 12345] = 18.0
    tail = sum(int((draw_many([logits], [1.0], draws, seed=seed) != 12345).sum()) for seed in range(batches))
    mean = draws * batches * (V - 1) / (V - 1 + math.exp(18.0))
    assert abs(tail - mean) < 6 * math.sqrt(mean)


def test_flat_logits_fill_coarse_bins_evenly() -> None:
    V = 262144
    tokens = torch.cat([draw_many([torch.zeros(1, V, device=CUDA)], [1.0], 4096, seed=seed) for seed in range(25)])
    even = torch.full((16,), -math.log(16))
    assert_distributed(tokens // (V // 16), even)
    assert_distributed(tokens % 1024 // 64, even)
    assert_distributed(tokens % 16, even)
    border = torch.tensor([1 / 64, 63 / 64]).log()
    assert_distributed(((tokens + 8) % 1024 >= 16).long(), border)


def test_a_short_last_group_has_its_share() -> None:
    V = 50257
    tokens = torch.cat([draw_many([torch.zeros(1, V, device=CUDA)], [1.0], 4096, seed=seed) for seed in range(25)])
    sizes = torch.full((50,), 1024.0)
    sizes[-1] = 81
    assert_distributed(tokens // 1024, (sizes / V).log())


@triton.jit
def exponentials_kernel(words, out, N: tl.constexpr):
    ids = tl.arange(0, N)
    tl.store(out + ids, noise.exponential_kernel(tl.load(words + ids).to(tl.uint32)))


def exponentials(words: Tensor) -> Tensor:
    """The kernels' exponentials of int64 words."""
    padded, out = torch.zeros(8192, dtype=torch.int64, device=CUDA), torch.empty(8192, device=CUDA)
    padded[: len(words)] = words.to(CUDA)
    exponentials_kernel[(1,)](padded, out, N=8192)
    return out[: len(words)].cpu()


@pytest.mark.parametrize(
    "check",
    [
        check_exponentials_are_finite_and_positive,
        check_exponentials_have_their_tail,
        check_exponentials_keep_every_bit,
    ],
)
def test_the_kernels_exponentials(check) -> None:
    check(exponentials)


def test_a_million_pairs_share_no_noise() -> None:
    check_pairs_share_no_noise(lambda s, p, ids, use: noise.noise_words(*(x.to(CUDA) for x in (s, p, ids)), use).cpu())


def test_a_billion_words_have_the_tail_of_an_exponential() -> None:
    counts = dict.fromkeys((20, 24, 26, 28), 0)
    low_bits = torch.zeros(256, dtype=torch.float64, device=CUDA)
    words_drawn = 0
    ids = torch.arange(2**20, device=CUDA)[None]
    for seeds in row_seeds(5, 1024, CUDA).split(16):
        words = noise.noise_words(seeds, seeds * 0, ids, noise.TOKEN.value)
        words_drawn += words.numel()
        values = noise.exponential(words)
        for power in counts:
            counts[power] += int((values < 2.0**-power).sum())
        low_bits += torch.bincount((words & 255).flatten(), minlength=256).double()
    for power, count in counts.items():
        mean = words_drawn * -math.expm1(-(2.0**-power))
        assert abs(count - mean) < 6 * math.sqrt(mean), power
    mean = words_drawn / 256
    assert float(((low_bits - mean) ** 2 / mean).sum()) < 255 + 10 * math.sqrt(2 * 255)
