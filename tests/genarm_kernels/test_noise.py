"""The noise: known words, exponentials at both ends in torch and in the kernels, pairs without duplicates, seeds."""

import math

import pytest
import torch
import triton
import triton.language as tl
from kernel_cases import (
    check_exponentials_are_finite_and_positive,
    check_exponentials_have_their_tail,
    check_exponentials_keep_every_bit,
    check_pairs_share_no_noise,
    kernel_exponentials,
)
from particle_cases import check_uniforms

from genarm_kernels import noise, row_seeds

EXPONENTIALS = (
    check_exponentials_are_finite_and_positive,
    check_exponentials_have_their_tail,
    check_exponentials_keep_every_bit,
)
PURPOSES = (noise.GROUP.value, noise.TOKEN.value, noise.RESAMPLE, noise.ANSWER)
# Random123's kat_vectors for philox4x32-10: counter, key, words.
KNOWN_ANSWERS = [
    ((0, 0, 0, 0), (0, 0), (0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8)),
    ((0xFFFFFFFF,) * 4, (0xFFFFFFFF,) * 2, (0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD)),
    (
        (0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344),
        (0xA4093822, 0x299F31D0),
        (0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1),
    ),
]


def test_philox_gives_the_published_words() -> None:
    counters, keys, expected = (torch.tensor(column) for column in zip(*KNOWN_ANSWERS, strict=True))
    words = noise.philox4x32(tuple(counters.T[:, :, None]), tuple(keys.T[:, :, None]))
    assert words[:, :, 0].T.tolist() == expected.tolist()


def test_a_word_is_that_of_its_seed_position_id_and_purpose() -> None:
    def word(seed: int, position: int, token: int, purpose: int) -> int:
        c, k = [token, position % 2**32, (position >> 32) % 2**32, purpose], [seed % 2**32, (seed >> 32) % 2**32]
        for _ in range(10):
            first, second = c[0] * 0xD2511F53, c[2] * 0xCD9E8D57
            c = [second >> 32 ^ c[1] ^ k[0], second % 2**32, first >> 32 ^ c[3] ^ k[1], first % 2**32]
            k = [(k[0] + 0x9E3779B9) % 2**32, (k[1] + 0xBB67AE85) % 2**32]
        return c[0]

    seeds, positions = torch.tensor([3, -1, 2**62 + 5]), torch.tensor([0, 2**40 + 1, -7])
    ids = torch.tensor([[0, 1023, 1048575]])
    assert PURPOSES == (1, 2, 3, 4)
    for purpose in PURPOSES:
        expected = [
            [word(s, p, i, purpose) for i in ids[0].tolist()]
            for s, p in zip(seeds.tolist(), positions.tolist(), strict=True)
        ]
        assert noise.noise_words(seeds, positions, ids, purpose).tolist() == expected


def test_exponentials_are_finite_keep_every_bit_and_have_their_tail() -> None:
    for check in EXPONENTIALS:
        check(noise.exponential)


def test_the_kernels_exponentials_are_the_same(kernel_device: str) -> None:
    for check in EXPONENTIALS:
        check(lambda words: kernel_exponentials(words, kernel_device))


def test_exponentials_fall_with_the_share_of_words_below_them() -> None:
    # E is monotone in its word, so its distribution is that of the words: P(E ≤ x) = 1 − e^−x at both ends.
    words = torch.cat([2 ** torch.arange(32), 2**32 - 2 ** torch.arange(32)]).unique()
    values = noise.exponential(words).double()
    below = -torch.expm1(-values)
    torch.testing.assert_close(below, (words.double() + 0.5) * 2.0**-32, rtol=1e-6, atol=0)
    assert bool((values[1:] > values[:-1]).all())


def test_exponentials_of_a_stream_have_the_right_small_values() -> None:
    # Among N words the number with E < 2⁻ᵏ is Poisson with mean N·2⁻ᵏ; six standard deviations for a fixed stream.
    seeds = row_seeds(11, 128)
    values = noise.exponential(noise.noise_words(seeds, seeds * 0, torch.arange(8192)[None], noise.TOKEN.value))
    for power in (4, 8, 12, 16):
        mean = values.numel() * -math.expm1(-(2.0**-power))
        count = int((values < 2.0**-power).sum())
        assert abs(count - mean) < 6 * math.sqrt(mean), power
    assert abs(float(values.double().mean()) - 1) < 6 / math.sqrt(values.numel())


def test_the_low_bits_of_words_are_in_use() -> None:
    seeds = row_seeds(12, 64)
    words = noise.noise_words(seeds, seeds * 0, torch.arange(4096)[None], noise.GROUP.value)
    counts = torch.bincount((words & 255).flatten(), minlength=256).double()
    mean = words.numel() / 256
    assert float(((counts - mean) ** 2 / mean).sum()) < 255 + 10 * math.sqrt(2 * 255)


def test_a_million_pairs_share_no_noise(fast_device: str) -> None:
    def words(seeds: torch.Tensor, positions: torch.Tensor, ids: torch.Tensor, purpose: int) -> torch.Tensor:
        return noise.noise_words(*(x.to(fast_device) for x in (seeds, positions, ids)), purpose).cpu()

    check_pairs_share_no_noise(words)


def test_neighbouring_seeds_rows_and_positions_are_uncorrelated() -> None:
    ids = torch.arange(4096)[None]
    near, zeros = torch.arange(20), torch.zeros(20, dtype=torch.int64)
    rows = torch.cat([row_seeds(seed, 8) for seed in range(4)])
    for seeds, positions in ((near, zeros), (zeros, near), (rows, torch.arange(32) % 4)):
        for purpose in PURPOSES:
            values = noise.exponential(noise.noise_words(seeds, positions, ids, purpose)).double()
            correlation = torch.corrcoef(values) - torch.eye(len(seeds))
            assert float(correlation.abs().max()) < 6 / math.sqrt(4096)
            shifted = torch.stack([values[0, :-1], values[0, 1:], values[0].roll(7)[1:]])
            assert float((torch.corrcoef(shifted) - torch.eye(3)).abs().max()) < 6 / math.sqrt(4096)


@pytest.mark.parametrize("purpose", [noise.RESAMPLE, noise.ANSWER])
def test_uniforms_are_the_middles_of_their_words(purpose: int, device: str) -> None:
    check_uniforms(purpose, device)


def test_row_seeds_do_not_depend_on_the_batch_size_and_are_all_distinct() -> None:
    assert torch.equal(row_seeds(5, 64)[:17], row_seeds(5, 17))
    assert row_seeds(5, 0).shape == (0,) and row_seeds(5, 3).dtype == torch.int64
    assert len(row_seeds(0, 200_000).unique()) == 200_000
    together = torch.cat([row_seeds(seed, 1000) for seed in range(-50, 50)])
    assert len(together.unique()) == len(together)


def test_any_integer_is_a_seed_modulo_2_to_the_64() -> None:
    for seed in (0, 1, -1, 2**63, -(2**63), 2**64 - 1, 10**30):
        assert torch.equal(row_seeds(seed, 3), row_seeds(seed % 2**64, 3))
        assert torch.equal(row_seeds(seed, 3), row_seeds(seed - 2**64, 3))
    assert torch.equal(row_seeds(torch.tensor(-9), 4), row_seeds(-9, 4))


@pytest.mark.parametrize(("seed", "B"), [(1.5, 2), (True, 2), (1, -1)])
def test_row_seeds_refuses_what_is_no_seed(seed: object, B: int) -> None:
    with pytest.raises((TypeError, ValueError), match="expected"):
        row_seeds(seed, B)


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
    tl.store(out + ids, noise.noise_kernel(tl.load(seed), tl.load(position), ids, PURPOSE))


@pytest.mark.parametrize(
    ("seed", "position", "purpose"), [(0, 0, 1), (-1, 2**40 + 3, 2), (2**62 + 5, -7, 1), (2**62 + 5, -7, 2)]
)
def test_the_twin_has_the_kernels_words_and_exponentials(
    seed: int, position: int, purpose: int, kernel_device: str
) -> None:
    seeds, positions = torch.tensor([seed], device=kernel_device), torch.tensor([position], device=kernel_device)
    words = torch.empty(1024, dtype=torch.int64, device=kernel_device)
    exponentials = torch.empty(1024, device=kernel_device)
    words_kernel[(1,)](seeds, positions, words, PURPOSE=purpose, N=1024)
    noise_of_row_kernel[(1,)](seeds, positions, exponentials, PURPOSE=purpose, N=1024)
    ids = torch.arange(1024, device=kernel_device)[None]
    twin = noise.noise_words(seeds, positions, ids, purpose)[0]
    assert torch.equal(words, twin)
    torch.testing.assert_close(exponentials, noise.exponential(twin), rtol=1e-6, atol=0)


@pytest.mark.device
def test_a_billion_words_have_the_tail_of_an_exponential() -> None:
    counts = dict.fromkeys((20, 24, 26, 28), 0)
    low_bits = torch.zeros(256, dtype=torch.float64, device="cuda")
    words_drawn = 0
    ids = torch.arange(2**20, device="cuda")[None]
    for seeds in row_seeds(5, 1024, "cuda").split(16):
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
