"""Counter-based noise: Philox4x32-10 words and unit exponentials, the same bits in torch and in Triton.

    key     = the row's 64-bit seed (low word, high word)
    counter = (group or token id, position low word, position high word, purpose)
    x       = word 0 of the ten-round output
    E       = −log1p(−u),            u = (x + ½)·2⁻³²,  for x < 2³¹
            = −log((~x + ½)·2⁻³²)                        for x ≥ 2³¹

(seed, position, id, purpose) is the whole counter and key: nothing is folded, so no two draws share their noise. Both
branches keep full relative precision in float32 and E is finite and > 0 for all 2³² words; the plain −log(1 − u) rounds
u to 1 for the top 128 words and loses the small E that win races.

Row seeds are 64-bit words too, one for each row of a batch, from one seed of the whole. Their products wrap, which C++
leaves undefined and compilers of it rely on, so torch.compile is to run `row_seeds` as it is: it is an operation.

Source: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Random123).
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device, register

# The last counter word: one noise for the race among groups, another for the race among a group's tokens; then those of
# uniforms: the resampling of particles, and the choice of an answer among them.
GROUP = tl.constexpr(1)
TOKEN = tl.constexpr(2)
RESAMPLE = 3
ANSWER = 4

_MULTIPLIERS = torch.tensor([0xD2511F53, 0xCD9E8D57])[:, None, None]
_WEYL = torch.tensor([0xBB67AE85, 0x9E3779B9])[:, None, None]
_ROUNDS = torch.arange(10)[:, None, None, None]
# As tensors, since each use of a Python number makes one anew, which takes a microsecond.
_LOW, _HALF = torch.tensor(0xFFFFFFFF), torch.tensor(32)


def philox4x32(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """Philox4x32-10 on int64 tensors [R, N] (or to be broadcast so) that hold 32-bit words -> words [4, R, N]."""
    c0, c1, c2, c3 = torch.broadcast_tensors(*counter)
    even, odd = torch.stack([c0, c2]), torch.stack([c3, c1])
    keys = torch.stack([key[1], key[0]]) + _WEYL.to(c0.device) * _ROUNDS.to(c0.device)
    multipliers = _MULTIPLIERS.to(c0.device)
    for round_key in keys.unbind(0):
        # int64 products wrap, but all their 64 bits are right. The high halves of odd words and the carries of keys go
        # with the next mask.
        product = even * multipliers
        even = (product >> _HALF).bitwise_xor_(odd).bitwise_xor_(round_key).bitwise_and_(_LOW).flip(0)
        odd = product
    odd = odd & _LOW
    return torch.stack([even[0], odd[1], even[1], odd[0]])


def noise_words(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
    """Word 0 for seeds [R] and positions [R] (int64) and ids [R, N] or [1, N] -> [R, N] int64 in [0, 2³²)."""
    seeds, positions = seeds[:, None], positions[:, None]
    last = torch.full_like(seeds, purpose)
    counter = (ids, positions & _LOW, (positions >> _HALF) & _LOW, last)
    return philox4x32(counter, (seeds & _LOW, (seeds >> _HALF) & _LOW))[0]


def exponential(words: Tensor) -> Tensor:
    """Words in [0, 2³²) -> float32 exponentials of rate 1, finite and > 0."""
    complement = _LOW - words
    u = (torch.minimum(words, complement).to(torch.float32) + 0.5) * 2.0**-32
    return -torch.where(words < complement, torch.log1p(-u), u.log())


@triton.jit
def exponential_kernel(words: tl.tensor) -> tl.tensor:
    """The same for a block of uint32 words. log1p by hand: libdevice's is not in the interpreter."""
    small = words < 0x80000000
    u = (tl.where(small, words, 0xFFFFFFFF - words).to(tl.float32) + 0.5) * 2.3283064365386963e-10
    complement = 1.0 - u
    logs = tl.log(tl.where(small, complement, u))
    # Where the complement rounds to 1 the quotient is not used; 1 keeps 0/0 out of it.
    lost = tl.where(complement == 1.0, 1.0, 1.0 - complement)
    # 1 − complement is exact, so the quotient puts right what rounding did to the complement.
    log1p = tl.where(complement == 1.0, -u, logs * (u / lost))
    return tl.where(small, -log1p, -logs)


@triton.jit
def noise_kernel(seed: tl.tensor, position: tl.tensor, ids: tl.tensor, PURPOSE: tl.constexpr) -> tl.tensor:
    """Exponentials of one row: seed and position int64 scalars, ids a block of int32 ids."""
    zero = ids * 0
    low = (position & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True) + zero
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True) + zero
    words, _, _, _ = tl.philox(seed, ids, low, high, zero + PURPOSE)
    return exponential_kernel(words)


@triton.jit(do_not_specialize=["stride", "N"], do_not_specialize_on_alignment=["seeds", "positions", "ids"])
def uniforms_kernel(seeds, positions, ids, uniforms, stride, N, PURPOSE: tl.constexpr, BLOCK: tl.constexpr):
    """One program per row and BLOCK of its ids."""
    row = tl.program_id(0).to(tl.int64)
    place = tl.program_id(1) * BLOCK + tl.arange(0, BLOCK)
    mask = place < N
    position = tl.load(positions + row)
    own = tl.load(ids + row * stride + place, mask=mask, other=0).to(tl.int32)
    zero = own * 0
    low = (position & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True) + zero
    high = ((position >> 32) & 0xFFFFFFFF).to(tl.uint32).to(tl.int32, bitcast=True) + zero
    words, _, _, _ = tl.philox(tl.load(seeds + row), own, low, high, zero + PURPOSE)
    tl.store(uniforms + row * N + place, (words.to(tl.uint32).to(tl.float64) + 0.5) * 2.3283064365386963e-10, mask=mask)


def uniforms(seeds: Tensor, positions: Tensor, ids: Tensor, purpose: int) -> Tensor:
    """Uniforms (word + ½)·2⁻³² of the words of `noise_words`: [R, N] float64, all of them within (0, 1).

    One launch on a GPU, which a graph can capture.
    """
    if not (seeds.is_cuda or INTERPRETED):
        return (noise_words(seeds, positions, ids, purpose).double() + 0.5) * 2.0**-32
    R, N = len(seeds), ids.shape[1]
    out = torch.empty((R, N), dtype=torch.float64, device=seeds.device)
    if R and N:
        ids = ids.contiguous()
        block = min(triton.next_power_of_2(N), 128)
        with on_device(seeds.device):
            launch: Any = uniforms_kernel[(R, triton.cdiv(N, block))]
            launch(
                seeds.contiguous(), positions.contiguous(), ids, out, N if len(ids) > 1 else 0, N,
                PURPOSE=purpose, BLOCK=block, num_warps=1,
            )  # fmt: skip
    return out


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
