"""Seeds of rows: one 64-bit word for each row of a batch, from one seed of the whole.

Products that wrap are what C++ leaves undefined and compilers of it rely on, so torch.compile is to run this as it is.
"""

import torch
from torch import Tensor

from genarm_kernels.library import register

# 2⁶⁴ over the golden ratio, odd, as int64.
_GOLDEN = -0x61C8864680B583EB


def _mix(x: Tensor) -> Tensor:
    """splitmix64's finaliser on int64: a bijection of 64-bit words. Shifts are logical, so sign bits are masked off."""
    x = (x ^ ((x >> 30) & (2**34 - 1))) * -0x40A7B892E31B1A47
    x = (x ^ ((x >> 27) & (2**37 - 1))) * -0x6B2FB644ECCEEE15
    return x ^ ((x >> 31) & (2**33 - 1))


def _spread(seed: Tensor, B: int) -> Tensor:
    rows = torch.arange(B, dtype=torch.int64, device=seed.device)
    return _mix(_mix(seed + _GOLDEN) + rows * _GOLDEN)


def _empty(seed: Tensor, B: int) -> Tensor:
    return seed.new_empty(B)


_SPREAD = register("row_seeds(Tensor seed, SymInt B) -> Tensor", _spread, _empty)


def row_seeds(seed: int | Tensor, B: int, device: torch.device | str | None = None) -> Tensor:
    """Seeds of the B rows of a batch seed -> [B] int64.

    Element b depends on (seed, b) only, never on B, and all elements of one seed differ: for a fixed seed
    b ↦ mix(mix(seed + odd) + b·odd) is a bijection of 64-bit words. Any integer is a seed, taken modulo 2⁶⁴; so is an
    integer tensor of no dimensions, whose device is then used and never waited for.

    Raises:
        TypeError, ValueError: for a seed or a B that is no such number.
    """
    if B < 0:
        raise ValueError(f"B is {B}: expected a number of rows ≥ 0")
    if isinstance(seed, Tensor):
        if seed.ndim or seed.is_floating_point() or seed.is_complex() or seed.dtype == torch.bool:
            raise TypeError(f"seed is {seed.dtype} {list(seed.shape)}: expected an integer tensor of no dimensions")
        seed = seed.to(torch.int64)
    elif isinstance(seed, bool) or not isinstance(seed, int):
        raise TypeError(f"seed is {type(seed).__name__}: expected an integer")
    else:
        if not -(2**63) <= seed < 2**63:
            # A key is a constant to a compiler, which has no more than 64 bits for a number that may change.
            seed = {seed: (seed + 2**63) % 2**64 - 2**63}[seed]
        seed = torch.full((), seed, dtype=torch.int64, device=device)
    rows: Tensor = _SPREAD(seed, B)
    return rows
