"""Cases and checks of resampling and of following, for every path they take: torch on a CPU, the interpreter, a GPU."""

from __future__ import annotations

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

import genarm_kernels
from genarm_kernels import Resampled, noise, reference
from genarm_kernels.dispatch import INTERPRETED
from genarm_kernels.particles import follow

NAN, INF = math.nan, math.inf
SENTINEL = 77.0


def make_weights(P: int, N: int, spread: float = 2.0, seed: int = 0) -> Tensor:
    """Log-weights [P, N] of P different scales."""
    values = torch.randn(P, N, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
    return values * spread + torch.linspace(-900, 900, P, dtype=torch.float64)[:, None]


def make_uniforms(P: int, seed: int = 1) -> Tensor:
    return torch.rand(P, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def resample(
    log_weights: Tensor | Sequence[Sequence[float]], uniforms: Tensor | Sequence[float] | float = 0.5,
    active: Sequence[bool] | None = None, below: float | Sequence[float] | Tensor = 1.0, device: str = "cpu",
) -> Resampled:  # fmt: skip
    """The operation, held against its oracle, on copies of what is given; results on the CPU."""
    logs = torch.as_tensor(log_weights, dtype=torch.float64).clone()
    P = len(logs)
    u = torch.as_tensor(uniforms, dtype=torch.float64).expand(P).clone()
    on = torch.ones(P, dtype=torch.bool) if active is None else torch.tensor(active)
    limit = below if isinstance(below, float) else torch.as_tensor(below, dtype=torch.float64)
    arguments = [one.to(device) if isinstance(one, Tensor) else one for one in (logs, u, on, limit)]
    before = [one.clone() if isinstance(one, Tensor) else one for one in arguments]
    found = genarm_kernels.resample(*arguments)
    for one, other in zip(arguments, before, strict=True):
        assert not isinstance(one, Tensor) or torch.equal(one.nan_to_num(nan=7.5), other.nan_to_num(nan=7.5))
    found = Resampled(*(one.cpu() for one in found))
    expected = reference.resample(logs, u, on, limit)
    assert torch.equal(found.origins, expected.origins)
    assert found.origins.dtype == torch.int64 and found.log_weights.dtype == found.log_means.dtype == torch.float64
    torch.testing.assert_close(found.log_weights, expected.log_weights, rtol=0, atol=0, equal_nan=True)
    torch.testing.assert_close(found.log_means, expected.log_means, rtol=1e-14, atol=1e-13, equal_nan=True)
    return found


def check_systems(P: int, N: int, spread: float = 2.0, device: str = "cpu") -> Resampled:
    """Of two systems one is resampled only where it should be."""
    below = torch.tensor([1.0, 0.5], dtype=torch.float64).repeat(P // 2 + 1)[:P]
    return resample(make_weights(P, N, spread), make_uniforms(P), None, below, device)


def check_expectation(N: int = 5, points: int = 12 if INTERPRETED else 1000, device: str = "cpu") -> None:
    """Over a fine grid of uniforms the offspring of every particle have the mean N · w̄, whatever its index."""
    logs = make_weights(1, N, 1.0, seed=5)
    # Equal weights too, which nothing but their order tells apart, and ones that are dead.
    equal = torch.zeros(1, N, dtype=torch.float64).index_fill_(1, torch.tensor([1, 3]), -INF)
    grid = (torch.arange(points, dtype=torch.float64) + 0.5) / points
    for one in (logs, equal):
        systems = one.expand(points, N).contiguous().to(device)
        on = torch.ones(points, dtype=torch.bool, device=device)
        origins = genarm_kernels.resample(systems, grid.to(device), on, 1.0).origins.cpu()
        counts = torch.nn.functional.one_hot(origins, N).double().sum(1)
        expected = N * one[0].softmax(0)
        # A count changes at one uniform, so a grid's mean is off by one of its steps at most.
        assert float((counts.mean(0) - expected).abs().max()) <= 1 / points
        assert bool(((counts - expected).abs() < 1).all())


def check_survivors_stay(device: str = "cpu") -> None:
    """Slots with offspring keep what they have, and surplus goes in order: copies in place hurt none another."""
    logs = torch.tensor([[1, 4, 1, 0, 2, 0, 0, 0]], dtype=torch.float64).log()
    assert resample(logs, 0.5, device=device).origins.tolist() == [[0, 1, 2, 1, 4, 1, 1, 4]]
    found = check_systems(6, 9, 3.0, device).origins
    stays = found.gather(1, found) == found
    assert bool(stays.all()) and bool((found != torch.arange(9)).any())


def check_weights_are_reset(device: str = "cpu") -> None:
    found = resample([[0.0, 3.0], [0.0, 0.1]], 0.25, None, 0.9, device)
    assert found.log_weights.tolist() == [[0.0, 0.0], [0.0, 0.1]]
    expected = [math.log((1 + math.exp(3)) / 2), 0.0]
    torch.testing.assert_close(found.log_means, torch.tensor(expected, dtype=torch.float64))


def check_who_is_resampled(device: str = "cpu") -> None:
    """By a share of its own, or that of all; only systems that are active, and from 1 on whatever their weights."""
    logs = [[0.0, 0.0, -INF, -INF], [0.0, 0.0, 0.0, 0.0], [0.0, -9.0, -9.0, -9.0], [-5.0, 1.0, 0.0, 0.0]]
    kept = list(range(4))

    def which(active: list[bool] | None, below: float | list[float], rows: object = logs) -> list[bool]:
        return [row != 0.0 for row in resample(rows, 0.3, active, below, device).log_means.tolist()]

    assert which(None, 0.5) == [False, False, True, False]
    assert which(None, 0.51) == [True, False, True, False]
    assert which(None, 0.0) == [False] * 4
    assert which([True, True, False, True], 0.9) == [True, False, False, True]
    assert which(None, [0.5, 1.0, 0.1, 0.9]) == [False, False, False, True]
    always = resample([[2.0] * 4], 0.3, None, 1.0, device)
    assert always.log_means.tolist() == [2.0] and always.origins.tolist() == [kept]
    assert always.log_weights.tolist() == [[0.0] * 4]


def check_what_cannot_be_resampled_stays(device: str = "cpu") -> None:
    logs = [[NAN, 0.0, 3.0], [-INF, -INF, -INF], [INF, 0.0, 0.0], [0.0, -INF, NAN], [NAN, NAN, NAN], [-INF, 5.0, -INF]]
    found = resample(logs, 0.9, None, 1.0, device)
    assert found.origins.tolist() == [[0, 1, 2]] * 5 + [[1, 1, 1]]
    assert found.log_means[:5].tolist() == [0.0] * 5
    # The mean weight of what is not to be had says so where someone would count with it.
    for u in (1.0, -0.1, NAN):
        found = resample([[0.0, 9.0], [0.0, 0.0]], u, None, 0.9, device)
        assert found.log_means.isnan().tolist() == [True, False] and found.origins.tolist() == [[0, 1]] * 2


def check_the_ends_of_uniforms(device: str = "cpu") -> None:
    """The first and the last uniform, with nothing at either end of the slots: no dead particle is reborn."""
    for N in (12,) if INTERPRETED else (1, 2, 3, 7, 12, 100):
        logs = torch.zeros(3, N + 2, dtype=torch.float64)
        logs[:, 0] = logs[:, -1] = -INF
        logs[1, 1:-1] = make_weights(1, N, 3.0)
        logs[2, 1:-1] = -1e300
        for u in (0.0, 1 - 2.0**-53) if INTERPRETED else (0.0, 2.0**-33, 1 - 2.0**-33, 1 - 2.0**-53):
            origins = resample(logs, u, device=device).origins
            assert int(origins.min()) >= 1 and int(origins.max()) <= N
    for u in (0.0, 1 - 2.0**-53):
        even = resample(torch.full((1, 49), 0.1, dtype=torch.float64), u, device=device)
        assert even.origins.tolist() == [list(range(49))]


def make_cache(
    L: int, R: int, H: int, T: int, D: int, dtype: torch.dtype = torch.float32, device: str = "cpu", offset: int = 0
) -> Tensor:
    """[L, 2, R, H, T, D], every element another, after so many elements of its memory."""
    size = L * 2 * R * H * T * D
    memory = torch.full((size + offset + 8,), SENTINEL, dtype=dtype, device=device)
    bits = torch.arange(size, dtype=torch.int32, device=device)
    values = bits.to(torch.int16).view(dtype) if dtype.itemsize == 2 else bits.view(dtype)
    cache = memory[offset : offset + size].view(L, 2, R, H, T, D)
    return cache.copy_(values.view(cache.shape))


def bits(cache: Tensor) -> Tensor:
    return cache.contiguous().view(torch.int16 if cache.element_size() == 2 else torch.int32)


def check_follow(
    origins: Sequence[int], starts: Sequence[int], lengths: Sequence[int], L: int = 2, H: int = 3, T: int = 9,
    D: int = 8, dtype: torch.dtype = torch.float32, device: str = "cpu", offset: int = 0,
) -> None:  # fmt: skip
    """The cache is the oracle's bit for bit, NaN and subnormal numbers too."""
    cache = make_cache(L, len(origins), H, T, D, dtype, device, offset)
    arguments = (
        torch.tensor(origins, device=device),
        *(torch.tensor(one, dtype=torch.int32, device=device) for one in (starts, lengths)),
    )
    before, expected = [one.clone() for one in arguments], reference.follow_rows(cache, *arguments)
    genarm_kernels.follow_rows(cache, *arguments)
    assert torch.equal(bits(cache), bits(expected))
    assert all(torch.equal(one, other) for one, other in zip(arguments, before, strict=True))


def check_tails(dtype: torch.dtype = torch.float32, device: str = "cpu", offset: int = 0, D: int = 8) -> None:
    """Rows that stay, a row that two follow, tails of every kind: whole, some, one token, none; two programs share
    each row's 12."""
    origins, starts, lengths = [0, 0, 2, 5, 0, 5, 5], [0, 3, 1, 8, 0, 2, 4], [9, 7, 9, 9, 9, 5, 4]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(follow, "shares", lambda R, tails, processors: 2)
        check_follow(origins, starts, lengths, 2, 3, 9, D, dtype, device, offset)


def check_bounds_end_with_the_cache(device: str = "cpu") -> None:
    """Starts before it, lengths behind it, and memory around it that nothing is to touch."""
    memory = torch.full((3, 1, 2, 2, 2, 4, 8), SENTINEL, device=device)
    cache = memory[1].copy_(make_cache(1, 2, 2, 4, 8, device=device))
    expected = memory.clone()
    expected[1, :, :, 0] = cache[:, :, 1]
    bounds = [torch.tensor(one, dtype=torch.int32, device=device) for one in ([-3, 0], [9, 9])]
    genarm_kernels.follow_rows(cache, torch.tensor([1, 1], device=device), *bounds)
    assert torch.equal(bits(memory), bits(expected))


def check_strange_origins_are_not_followed(device: str) -> None:
    """What a CPU refuses: nothing is copied."""
    cache = make_cache(1, 3, 2, 4, 8, device=device)
    before, origins = cache.clone(), torch.tensor([-1, 1, 3], device=device)
    bounds = [torch.full((3,), one, dtype=torch.int32, device=device) for one in (0, 4)]
    genarm_kernels.follow_rows(cache, origins, *bounds)
    assert torch.equal(bits(cache), bits(before))


def check_uniforms(purpose: int, device: str = "cpu") -> None:
    """The middles of their words, whatever the shape of ids."""
    seeds, positions = torch.tensor([3, -1, 2**62 + 5]), torch.tensor([0, 2**40 + 1, -7])
    for ids in (torch.tensor([[0, 5, 1048575]]), torch.arange(12).view(3, 4)):
        expected = (noise.noise_words(seeds, positions, ids, purpose).double() + 0.5) / 2**32
        found = noise.uniforms(*(x.to(device) for x in (seeds, positions, ids)), purpose)
        assert found.dtype == torch.float64 and torch.equal(found.cpu(), expected)
        assert bool((found > 0).all() and (found < 1).all())
