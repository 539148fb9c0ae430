"""Cases and checks of the sampling ops, for every path they take: torch on a CPU, the interpreter, a GPU."""

import itertools
import math
from collections.abc import Callable, Sequence

import torch
import triton
import triton.language as tl
from chi_square import chi_square
from torch import Tensor

import genarm_kernels
from genarm_kernels import noise, reference

DTYPES = (torch.float32, torch.bfloat16, torch.float16)
LAYOUTS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda z: z,
    "padded rows": lambda z: _copied_into(z, z.new_full((z.shape[0], z.shape[1] + 3), torch.nan), 0),
    "offset view": lambda z: _copied_into(z, z.new_full((z.shape[0], z.shape[1] + 3), torch.nan), 1),
    "every other row": lambda z: z.repeat_interleave(2, 0)[::2],
    "transposed": lambda z: z.t().contiguous().t(),
}
FILTERS = {
    "none": {},
    "temperature": {"temperature": 0.7},
    "greedy": {"temperature": 0.0},
    "top_k": {"top_k": 3},
    "top_p": {"top_p": 0.8},
    "min_p": {"min_p": 0.2},
    "base_min_p": {"base_min_p": 0.3},
    "base_top_p": {"base_top_p": 0.7},
    "all": {"temperature": 1.3, "top_k": 9, "top_p": 0.9, "min_p": 0.05, "base_min_p": 0.02, "base_top_p": 0.95},
    "greedy, filtered": {"temperature": 0.0, "top_k": 2, "top_p": 0.5, "base_top_p": 0.4},
}


def _copied_into(z: Tensor, wide: Tensor, start: int) -> Tensor:
    view = wide[:, start : start + z.shape[1]]
    return view.copy_(z)


def make_logits(
    B: int,
    V: int | Sequence[int],
    M: int,
    dtypes: Sequence[torch.dtype] = (torch.float32,),
    layout: str = "contiguous",
    seed: int = 0,
    device: str = "cpu",
) -> list[Tensor]:
    """M tensors [B, V] (or [B, V[m]]); dtypes are taken in turn."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [V] * M if isinstance(V, int) else list(V)
    return [
        LAYOUTS[layout]((torch.randn(B, size, generator=generator) * 2).to(device, dtype))
        for size, dtype in zip(sizes, itertools.islice(itertools.cycle(dtypes), M), strict=True)
    ]


def make_weights(B: int, M: int, seed: int = 0, device: str = "cpu") -> Tensor:
    """Weights [B, M] of either sign, the base's 1."""
    weights = torch.randn(B, M, generator=torch.Generator().manual_seed(seed + 1))
    weights[:, 0] = 1.0
    return weights.to(device)


def assert_sample_agrees(
    logits: Sequence[Tensor], weights: object, seed: object = 7, **options: object
) -> genarm_kernels.GuidedSample:
    """guided_sample gives what the oracle gives: the same tokens, log-probs to float32's accuracy."""
    everything = {"seed": seed, "return_logprobs": True, "return_normalizers": True, **options}
    ours = genarm_kernels.guided_sample(logits, weights, **everything)
    theirs = reference.guided_sample(logits, weights, **everything)
    assert ours.tokens.dtype == torch.int64 and ours.status.dtype == torch.int32
    torch.testing.assert_close(ours.status, theirs.status)
    torch.testing.assert_close(ours.tokens, theirs.tokens)
    torch.testing.assert_close(ours.logprobs, theirs.logprobs, rtol=1e-5, atol=3e-5, equal_nan=True)
    torch.testing.assert_close(ours.model_logprobs, theirs.model_logprobs, rtol=1e-5, atol=3e-5, equal_nan=True)
    torch.testing.assert_close(ours.log_normalizers, theirs.log_normalizers, rtol=1e-5, atol=1e-4, equal_nan=True)
    return ours


def assert_agrees(logits: Sequence[Tensor], weights: object, seed: object = 7, **options: object) -> None:
    """And without log-probs the same tokens, and the oracle's distribution."""
    ours = assert_sample_agrees(logits, weights, seed, **options)
    plain = genarm_kernels.guided_sample(logits, weights, seed=seed, **options)
    assert plain.logprobs is None and plain.model_logprobs is None and plain.log_normalizers is None
    assert torch.equal(plain.tokens[ours.status == 0], ours.tokens[ours.status == 0])
    options.pop("position", None)
    log_probs, masses = genarm_kernels.guided_log_probs(logits, weights, return_normalizers=True, **options)
    assert log_probs.dtype == torch.float32 and log_probs.shape[0] == logits[0].shape[0]
    expected, expected_masses = reference.guided_log_probs(logits, weights, return_normalizers=True, **options)
    torch.testing.assert_close(log_probs, expected, rtol=1e-5, atol=3e-5, equal_nan=True)
    torch.testing.assert_close(masses, expected_masses, rtol=1e-5, atol=1e-4, equal_nan=True)


def assert_same_bits(left: genarm_kernels.GuidedSample, right: genarm_kernels.GuidedSample) -> None:
    assert [x is None for x in left] == [x is None for x in right]
    for one, other in zip(left, right, strict=True):
        if one is None or other is None:
            continue
        one, other = (x.view(torch.int32) if x.dtype == torch.float32 else x for x in (one, other))
        assert torch.equal(one, other)


def rows_of(sample: genarm_kernels.GuidedSample, rows: Tensor | slice) -> genarm_kernels.GuidedSample:
    """What some rows drew."""
    return genarm_kernels.GuidedSample(*(None if x is None else x[rows] for x in sample))


def assert_distributed(tokens: Tensor, log_probs: Tensor) -> None:
    """χ² of drawn tokens against log-probabilities [V].

    The bound is ten standard deviations: no fixed seed fails it by chance, and a wrong sampler fails it by far.
    """
    probabilities = log_probs.cpu().double().exp()
    expected = probabilities[probabilities > 0] * len(tokens)
    assert int((expected >= 5).sum()) + int((expected < 5).any()) > 1, "a single cell shows nothing"
    statistic, bound = chi_square(tokens.cpu(), probabilities)
    assert statistic < bound, (statistic, bound)


def draw_many(logits: Sequence[Tensor], weights: object, draws: int, **options: object) -> Tensor:
    """Draws from single-row logits [1, V] -> tokens [draws]."""
    many = [z.expand(draws, -1) for z in logits]
    sample = genarm_kernels.guided_sample(many, weights, **options)
    assert not bool(sample.status.any())
    return sample.tokens


def at(z: Tensor, stride: int, start: int = 0) -> Tensor:
    """The same values with rows `stride` apart in memory, from element `start` on, NaN between them."""
    memory = z.new_full((z.shape[0] * stride + start,), torch.nan)
    return memory.as_strided(z.shape, (stride, 1), start).copy_(z)


# Checks that a mutant is held against. Each takes the device and the draws it can afford.


def check_the_last_id_is_reached(device: str = "cpu", draws: int = 1) -> None:
    for V in (1, 17, 1023, 1024, 1025, 2049):
        logits = torch.full((1, V), -30.0, device=device)
        logits[0, -1] = 30.0
        sample = genarm_kernels.guided_sample([logits], [1.0], return_logprobs=True)
        assert sample.tokens.tolist() == [V - 1]
        assert abs(float(sample.logprobs)) < 1e-5


def check_nothing_beyond_the_vocabulary_exists(device: str = "cpu", draws: int = 8) -> None:
    for V in (17, 1025):
        wide = torch.full((draws, 2048), 30.0, device=device)
        wide[:, :V] = 0.0
        sample = genarm_kernels.guided_sample([wide], [1.0], vocab_size=V, return_logprobs=True)
        assert int(sample.tokens.max()) < V
        torch.testing.assert_close(sample.logprobs, torch.full((draws,), -math.log(V), device=device))
        torch.testing.assert_close(sample.model_logprobs[:, 0], sample.logprobs)


def check_rows_and_positions_draw_their_own_noise(device: str = "cpu", draws: int = 32) -> None:
    logits = torch.zeros(1, 1025, device=device)
    rows = draw_many([logits], [1.0], draws)
    assert len(rows.unique()) > draws // 2
    positions = torch.arange(draws, device=device)
    seeds = torch.full((draws,), 5, device=device)
    assert len(draw_many([logits], [1.0], draws, seed=seeds, position=positions).unique()) > draws // 2
    assert len(draw_many([logits], [1.0], draws, seed=seeds, position=positions << 32).unique()) > draws // 2
    assert len(draw_many([logits], [1.0], draws, seed=positions << 32).unique()) > draws // 2


def check_group_and_token_noise_are_independent(device: str = "cpu", draws: int = 2000) -> None:
    # Ids 0..3 are also the numbers of the four groups: with shared noise the group that wins lends its id its luck.
    logits = torch.full((1, 4096), -torch.inf, device=device)
    logits[0, [*range(8), 1024, 1025, 2048, 2049, 3072, 3073]] = 0.0
    assert_distributed(draw_many([logits], [1.0], draws), genarm_kernels.guided_log_probs([logits], [1.0])[0])


def check_weights_belong_to_their_models(device: str = "cpu", draws: int = 3) -> None:
    logits = make_logits(draws, 40, 3, device=device)
    assert_agrees(logits, torch.tensor([1.0, -0.5, 2.0], device=device))


def check_groups_race_with_their_filtered_mass(
    device: str = "cpu", draws: int = 400, filters: Sequence[str] = ("top_k", "min_p", "base_min_p")
) -> None:
    # Before the filter group 0 holds almost all of the mass; the filter leaves one id in each group, equally likely.
    logits = torch.full((1, 1030), -1.0, device=device)
    logits[0, 5] = logits[0, 1027] = 2.0
    even = torch.full((1030,), -torch.inf)
    even[[5, 1027]] = math.log(0.5)
    values = {"top_k": 2, "min_p": 0.9, "base_min_p": 0.9}
    for name in filters:
        assert_distributed(draw_many([logits], [1.0], draws, **{name: values[name]}), even)


def check_an_excluded_group_is_passed_over(device: str = "cpu", draws: int = 4) -> None:
    logits = torch.zeros(draws, 3000, device=device)
    logits[:, :1024] = -torch.inf
    sample = genarm_kernels.guided_sample([logits], [1.0], return_logprobs=True)
    assert sample.status.tolist() == [0] * draws
    assert int(sample.tokens.min()) >= 1024
    torch.testing.assert_close(sample.logprobs, torch.full((draws,), -math.log(1976), device=device))


@triton.jit
def _exponentials_kernel(words, out, N: tl.constexpr):
    ids = tl.arange(0, N)
    tl.store(out + ids, noise.exponential_kernel(tl.load(words + ids).to(tl.uint32)))


def kernel_exponentials(words: Tensor, device: str = "cpu") -> Tensor:
    """The kernels' exponentials of int64 words."""
    N = triton.next_power_of_2(len(words))
    padded, out = torch.zeros(N, dtype=torch.int64, device=device), torch.empty(N, device=device)
    padded[: len(words)] = words.to(device)
    _exponentials_kernel[(1,)](padded, out, N=N)
    return out[: len(words)].cpu()


def check_exponentials_keep_every_bit(exponential: Callable[[Tensor], Tensor]) -> None:
    """A 24-bit uniform fails: neighbours at the small end become equal, and the low 8 bits are lost."""
    words = torch.cat([torch.arange(4096), torch.arange(2**20, 2**20 + 4096)])
    values = exponential(words).double()
    exact = -torch.log1p(-(words.double() + 0.5) * 2.0**-32)
    assert float(((values - exact) / exact).abs().max()) < 1e-6
    assert bool((values[1:] > values[:-1]).all())


def check_exponentials_are_finite_and_positive(exponential: Callable[[Tensor], Tensor]) -> None:
    """A uniform that rounds to 1 fails."""
    words = torch.cat([torch.tensor([0, 1, 2**31 - 1, 2**31]), torch.arange(2**32 - 129, 2**32)])
    values = exponential(words).double()
    assert bool(values.isfinite().all()) and bool((values > 0).all())
    exact = -torch.log1p(-(words.double() + 0.5) * 2.0**-32)
    assert float(((values - exact) / exact).abs().max()) < 1e-6


def check_exponentials_have_their_tail(exponential: Callable[[Tensor], Tensor]) -> None:
    """P(E < 2⁻ᵏ) = 1 − e^−2⁻ᵏ down to k = 31, on the smallest 2¹³ of the 2³² words; each of them has an E of its own.

    A 24-bit uniform fails: it has no E below 2⁻²⁵, and 256 words to each E.
    """
    values = exponential(torch.arange(2**13)).double()
    for power in range(20, 32):
        expected = -math.expm1(-(2.0**-power)) * 2**32
        assert abs(int((values < 2.0**-power).sum()) - expected) <= 1, power
    assert len(values.unique()) == len(values)


def check_pairs_share_no_noise(noise_words: Callable[[Tensor, Tensor, Tensor, int], Tensor]) -> None:
    """10⁶ (seed, position) pairs: two words are 64 bits, so a chance duplicate has probability 3·10⁻⁸.

    A fold of the pair into 32 bits gives about a hundred.
    """
    seeds = torch.cat([genarm_kernels.row_seeds(3, 500), torch.arange(500)]).repeat_interleave(1000)
    positions = torch.arange(1000).repeat(1000)
    words = torch.cat(
        [
            noise_words(s, p, torch.arange(2)[None], noise.GROUP.value)
            for s, p in zip(seeds.split(65536), positions.split(65536), strict=True)
        ]
    )
    assert len((words[:, 0] << 31 ^ words[:, 1]).unique()) == len(seeds)
