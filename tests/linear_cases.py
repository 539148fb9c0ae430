"""Cases and checks of skinny_linear's kernel, for the interpreter and for a GPU.

Small whole numbers make every sum exact in every order and dtype, so results are compared for equality.
"""

import itertools
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
import torch
from interpreted_loads import addresses_read
from torch import Tensor

from genarm_kernels import reference
from genarm_kernels.layer import cut, linear

DTYPES = (torch.bfloat16, torch.float16, torch.float32)
SENTINEL = 77.0


def numbers(*shape: int, seed: int, dtype: torch.dtype, device: str = "cpu") -> Tensor:
    """−1, 0 and 1: any sum of a few hundred products is a whole number that bfloat16 holds."""
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(-1, 2, shape, generator=generator).to(device, dtype)


def amid_nan(values: Tensor, below: int, beside: int, before: int = 0) -> Tensor:
    """The same values inside a larger matrix of NaN: reading one element too many shows."""
    rows, columns = values.shape
    room = values.new_full((rows + below, before + columns + beside), torch.nan)
    room[:rows, before : before + columns] = values
    return room[:rows, before : before + columns]


def inside_sentinels(R: int, N: int, dtype: torch.dtype, device: str = "cpu") -> tuple[Tensor, Tensor]:
    """A matrix to write [R, N] into, and what must hold nothing but sentinels around it."""
    room = torch.full((R + 2, N + 3), SENTINEL, dtype=dtype, device=device)
    return room[1 : 1 + R, :N], room


@contextmanager
def split_without_a_price() -> Iterator[None]:
    """H is taken in parts wherever there is enough of it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "SECOND_KERNEL", -1.0)
        cut.configuration.cache_clear()
        yield
    cut.configuration.cache_clear()


def is_exact(R: int, N: int, H: int, dtype: torch.dtype, bias: bool = True, device: str = "cpu") -> None:
    """Equal to the oracle in a case whose sums are exact, and written nowhere else."""
    x = numbers(R, H, seed=1, dtype=dtype, device=device)
    weight = numbers(N, H, seed=2, dtype=dtype, device=device)
    offset = numbers(N, seed=3, dtype=dtype, device=device) if bias else None
    expected = reference.skinny_linear(x, weight, offset).to(dtype)
    # Rows that start at multiples of 16 bytes are copied another way than others.
    margin = 16 if H % 16 == 0 else 5
    out, room = inside_sentinels(R, N, dtype, device)
    linear.linear_by_kernel(amid_nan(x, 3, margin), amid_nan(weight, 2, margin), offset, out)
    assert torch.equal(out, expected)
    assert int((room == SENTINEL).sum()) == room.numel() - R * N


def every_shape_is_exact(device: str = "cpu") -> None:
    for dtype in DTYPES:
        for R, N, H in ((1, 1, 1), (3, 70, 300), (8, 32, 256), (9, 33, 511), (17, 96, 130), (32, 65, 64)):
            is_exact(R, N, H, dtype, bias=N % 2 == 0, device=device)
    is_exact(64, 40, 512, torch.bfloat16, device=device)
    is_exact(33, 48, 257, torch.float16, device=device)


def parts_of_h_are_added(device: str = "cpu") -> None:
    with split_without_a_price():
        assert cut.configuration(3, 40, 2100, 2).splits == 3
        for R, N, H in ((17, 20, 2048), (1, 600, 1030)):
            is_exact(R, N, H, torch.bfloat16, device=device)
        is_exact(3, 40, 2100, torch.bfloat16, bias=False, device=device)
        is_exact(9, 33, 1100, torch.float32, device=device)


def tall_tiles_are_exact(device: str = "cpu") -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(cut, "TALL", 0)
        cut.configuration.cache_clear()
        assert cut.configuration(3, 100, 300, 2).BLOCK_N == 64
        for R in (1, 9, 17):
            is_exact(R, 100, 300, torch.bfloat16, device=device)
    cut.configuration.cache_clear()


def random_numbers_are_as_near_as_their_dtype(device: str = "cpu") -> None:
    # The interpreter cuts float32 to bfloat16 instead of rounding it: a whole unit in the last place, not half.
    units = {torch.bfloat16: 2**-7, torch.float16: 2**-10, torch.float32: 2**-17}
    for dtype, H in itertools.product(DTYPES, (256, 700)):
        generator = torch.Generator().manual_seed(H)
        x, weight = (torch.randn(n, H, generator=generator).to(device, dtype) for n in (5, 50))
        y, expected = linear.linear_by_kernel(x, weight), reference.skinny_linear(x, weight)
        # Where terms cancel, what is left of their roundings counts, not the sum.
        size = expected.abs() + 2**-5 * (x.double().abs() @ weight.double().abs().T)
        assert bool(((y.double() - expected).abs() <= units[dtype] * size).all())


def other_rows_do_not_matter(device: str = "cpu") -> None:
    """A row's bits among NaN and infinities, and at any place, are its bits alone."""
    x, weight = (torch.randn(n, 300, generator=torch.Generator().manual_seed(n)) for n in (8, 40))
    x, weight = x.to(device, torch.bfloat16), weight.to(device, torch.bfloat16)
    for place in (0, 3, 7):
        wild = torch.full_like(x, torch.nan)
        wild[1::2] = torch.inf
        wild[place] = x[place]
        alone = linear.linear_by_kernel(x[place : place + 1], weight)
        assert torch.equal(linear.linear_by_kernel(wild, weight)[place], alone[0])


def rows_below_a_prefix_do_not_matter(device: str = "cpu") -> None:
    """The first rows of a taller matrix give the first columns, bit for bit."""
    x, weight = (torch.randn(n, 300, generator=torch.Generator().manual_seed(n)) for n in (3, 70))
    x, weight = x.to(device, torch.bfloat16), weight.to(device, torch.bfloat16)
    whole = linear.linear_by_kernel(x, weight)
    assert torch.equal(linear.linear_by_kernel(x, weight[:41]), whole[:, :41])


def addresses(tensor: Tensor) -> set[int]:
    rows, columns = (torch.arange(n)[:, None] * s for n, s in zip(tensor.shape, tensor.stride(), strict=True))
    return set((tensor.data_ptr() + (rows + columns.T) * tensor.element_size()).flatten().tolist())


def the_weights_are_read_once_and_nothing_outside() -> None:
    """In the interpreter alone, which notes what is loaded."""
    for R, N, H in ((3, 64, 512), (3, 70, 300)):
        x, weight = (amid_nan(numbers(n, H, seed=n, dtype=torch.float16), 70, 20) for n in (R, N))
        with pytest.MonkeyPatch.context() as patch:
            seen = addresses_read(patch)
            linear.linear_by_kernel(x, weight)
        assert set(seen) == addresses(x) | addresses(weight)
        # A last tile of fewer rows reads its last row in place of those it has not.
        again = addresses(weight[-1:]) if N % 32 else set()
        assert {seen[at] for at in addresses(weight) - again} == {1}
        assert {seen[at] for at in addresses(x)} == {-(-N // 32)}


CHECKS = (
    every_shape_is_exact,
    parts_of_h_are_added,
    tall_tiles_are_exact,
    random_numbers_are_as_near_as_their_dtype,
    other_rows_do_not_matter,
    rows_below_a_prefix_do_not_matter,
)
