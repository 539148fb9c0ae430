"""The largest t with Σ_{v ≥ t} u_v ≥ target over a row's candidates, where u counts them or is their mass.

Values are compared as sortable integer keys, so the answer is exact. Masses are summed as integers, a sum that is the
same in every order. Candidates that fit the registers are searched bit by bit; among more of them, sums at a few pivots
at a time narrow the range first, at 4 bytes per candidate and pass.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def"

import triton
import triton.language as tl

from genarm_kernels.sampling.groups import INFINITY, UNIT

# Candidates read at a time while there are more, and the pivots they are held against.
BLOCK = tl.constexpr(512)
PIVOTS = tl.constexpr(8)


@triton.jit
def sortable(values):
    """float32 -> uint32 that orders alike; −0 is 0."""
    bits = (values + 0.0).to(tl.uint32, bitcast=True)
    return tl.where(bits >= 0x80000000, bits ^ 0xFFFFFFFF, bits | 0x80000000)


@triton.jit
def from_sortable(keys):
    return tl.where(keys >= 0x80000000, keys ^ 0x80000000, keys ^ 0xFFFFFFFF).to(tl.float32, bitcast=True)


@triton.jit
def mass(values, top, rate):
    """exp((value − top) / T) as int64, in units of 2⁻⁴²."""
    return (tl.exp2((values - top) * rate) * UNIT).to(tl.int64)


@triton.jit
def search_bits(keys, units, above, target, low, end):
    """The largest key t in [low, end) with above + Σ units of keys ≥ t at least the target, which holds at low."""
    found = low & 0
    for bit in range(32):
        trial = found | ((low & 0) + 1 << (31 - bit))
        take = trial <= low
        if (trial > low) & (trial < end):
            take = (above + tl.sum(tl.where(keys >= trial, units, 0), 0)).to(tl.float64) >= target
        found = tl.where(take, trial, found)
    return found


@triton.jit
def smallest(candidates, n):
    """The smallest candidate's key."""
    low = tl.full([BLOCK], 0xFFFFFFFF, tl.uint32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        low = tl.minimum(low, sortable(tl.load(candidates + i, mask=i < n, other=INFINITY)))
    return tl.min(low, 0)


@triton.jit
def sums_at(candidates, n, pivots, top, rate, MASS: tl.constexpr):
    """Σ of units, and the number, of candidates ≥ each of the pivots (keys)."""
    counted = tl.full([BLOCK, PIVOTS], 0, tl.int32)
    weighed = counted.to(tl.int64)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        values = tl.load(candidates + i, mask=i < n, other=-INFINITY)
        reached = sortable(values)[:, None] >= pivots[None, :]
        counted += reached.to(tl.int32)
        if MASS:
            weighed += tl.where(reached, mass(values, top, rate)[:, None], 0)
    number = tl.sum(counted, 0)
    return tl.sum(weighed, 0) if MASS else number.to(tl.int64), number


@triton.jit
def narrow(candidates, n, low, end, target, top, rate, CAPACITY: tl.constexpr, MASS: tl.constexpr):
    """The range [low, end) of the threshold's key, at most CAPACITY candidates or one key, and Σ units from end on."""
    above = tl.full([], 0, tl.int64)
    above_count = tl.full([], 0, tl.int32)
    inside = n
    places = tl.arange(0, PIVOTS)
    while (inside > CAPACITY) & (end - low > 1):
        # Evenly spaced values up to the last, and the middle key: it halves the range whatever the values are.
        share = (places + 1).to(tl.float32) / (PIVOTS - 1)
        even = sortable(from_sortable(low) * (1.0 - share) + from_sortable(end - 1) * share)
        pivots = tl.where(places == PIVOTS - 1, low + (end - low) // 2, even)
        pivots = tl.minimum(tl.maximum(pivots, low + 1), end - 1)
        weights, numbers = sums_at(candidates, n, pivots, top, rate, MASS)
        holds = weights.to(tl.float64) >= target
        new_low = tl.maximum(low, tl.max(tl.where(holds, pivots, 0), 0))
        new_end = tl.minimum(end, tl.min(tl.where(holds, 0xFFFFFFFF, pivots), 0))
        all_above = above_count
        if new_end < end:
            above = tl.max(tl.where(pivots == new_end, weights, 0), 0)
            above_count = tl.max(tl.where(pivots == new_end, numbers, 0), 0)
        below = tl.max(tl.where(pivots == new_low, numbers, 0), 0)
        inside = tl.where(new_low > low, below, inside + all_above) - above_count
        low, end = new_low, new_end
    return low, end, above


@triton.jit
def shorten(candidates, n, low, end, shortlist):
    """Copy the candidates in [low, end) to the shortlist -> how many."""
    length = tl.full([], 0, tl.int32)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        values = tl.load(candidates + i, mask=i < n, other=-INFINITY)
        keys = sortable(values)
        kept = ((keys >= low) & (keys < end) & (i < n)).to(tl.int32)
        tl.store(shortlist + length + tl.cumsum(kept, 0) - 1, values, mask=kept != 0)
        length += tl.sum(kept, 0)
    # The program's other threads read it next.
    tl.debug_barrier()
    return length


@triton.jit
def search(candidates, n, low, end, target, top, rate, shortlist, CAPACITY: tl.constexpr, MASS: tl.constexpr):
    """The key of the largest t with Σ_{candidates ≥ t} units ≥ target."""
    if n > CAPACITY:
        # Where the bound is far below all candidates, evenly spaced pivots would be too.
        low = tl.maximum(low, smallest(candidates, n))
    low, end, above = narrow(candidates, n, low, end, target, top, rate, CAPACITY, MASS)
    found = low
    if end - low > 1:
        source, length = candidates, n
        if n > CAPACITY:
            length = shorten(candidates, n, low, end, shortlist)
            source = shortlist
        i = tl.arange(0, CAPACITY)
        values = tl.load(source + i, mask=i < length, other=-INFINITY)
        keys = tl.where(i < length, sortable(values), 0)
        units = tl.where(i < length, mass(values, top, rate), 0) if MASS else (i < length).to(tl.int64)
        found = search_bits(keys, units, above, target, low, end)
    return found


@triton.jit
def mass_from(candidates, n, lowest, top, rate):
    """Σ mass of the candidates ≥ lowest."""
    total = tl.full([BLOCK], 0, tl.int64)
    for start in range(0, n, BLOCK):
        i = start + tl.arange(0, BLOCK)
        values = tl.load(candidates + i, mask=i < n, other=-INFINITY)
        total += tl.where(values >= lowest, mass(values, top, rate), 0)
    return tl.sum(total, 0)
