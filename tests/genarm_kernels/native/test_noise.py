"""The draw's noise in C: the same words as noise.py's, and their exponentials."""

from __future__ import annotations

import ctypes
import itertools

import pytest
import torch
from torch import Tensor

from genarm_kernels import noise
from genarm_kernels.native.choice import library

pytestmark = pytest.mark.usefixtures("native_path")


def native_words(seed: int, position: int, purpose: int, count: int) -> Tensor:
    words = torch.empty(count, dtype=torch.int32)
    kernels = library(torch.float32)
    assert kernels is not None
    kernels.noise_words(
        ctypes.c_uint64(seed % 2**64), ctypes.c_uint64(position), purpose, ctypes.c_int64(count),
        ctypes.c_void_p(words.data_ptr()),
    )  # fmt: skip
    return words.long() & 0xFFFFFFFF


def test_words_are_philox_s() -> None:
    ids = torch.arange(3000)[None]
    for (seed, position), purpose in itertools.product(
        [(0, 0), (1, 2**40), (-1, 3), (2**62 + 12345, 2**32 + 5), (-(2**63), 0)], (noise.GROUP.value, noise.TOKEN.value)
    ):
        expected = noise.noise_words(torch.tensor([seed]), torch.tensor([position]), ids, purpose)[0]
        assert torch.equal(native_words(seed, position, purpose, 3000), expected), (seed, position, purpose)


def test_logs_of_exponentials_are_finite_and_keep_every_bit() -> None:
    edges = [0, 1, 2**31 - 1, 2**31, *range(2**32 - 129, 2**32)]
    random = torch.randint(2**32, (100_000,), generator=torch.Generator().manual_seed(1))
    words = torch.cat([torch.tensor(edges), random])
    logs, kernels = torch.empty(len(words)), library(torch.float32)
    assert kernels is not None
    narrow = words.to(torch.int32)
    kernels.log_noises(ctypes.c_void_p(narrow.data_ptr()), ctypes.c_int64(len(words)), ctypes.c_void_p(logs.data_ptr()))
    u = (words.double() + 0.5) * 2.0**-32
    expected = (-torch.log1p(-u)).log()
    assert bool(logs.isfinite().all())
    torch.testing.assert_close(logs.double(), expected, rtol=1e-6, atol=3e-7)
