"""Resampling and following in torch. Nothing here has N × N elements, and resampling reads nothing back."""

import torch
from torch import Tensor

# A system's largest weight in whole units: 2⁵⁰ leave sums over 4,096 particles room in 64 bits.
UNIT_BITS, SUM_BITS = 50, 62
LOWEST = torch.finfo(torch.float64).min


def resample(
    log_weights: Tensor, uniforms: Tensor, active: Tensor, below: Tensor | float
) -> tuple[Tensor, Tensor, Tensor]:
    """origins [P, N] int64, log_weights [P, N] and log_means [P] float64; all P systems side by side."""
    N = log_weights.shape[1]
    # NaN compares false.
    finite = log_weights < torch.inf
    readable = log_weights.masked_fill(~finite, -torch.inf)
    # Where all are dead, any peak that is finite will do.
    peaks = readable.amax(1).clamp_min_(LOWEST)
    weights = (readable - peaks[:, None]).exp_()
    # Running sums add in one order, however many systems there are.
    total = weights.cumsum(1)[:, -1]
    size = total.square() / weights.square().cumsum(1)[:, -1]
    uneven = size < N * below
    due = active & finite.all(1) & (total > 0) & (uneven | (below >= 1))
    sound = (uniforms >= 0) & (uniforms < 1)
    resampled = (due & sound)[:, None]
    means = (total / N).log_().add_(peaks).masked_fill_(~sound, torch.nan)
    own = torch.arange(N, device=log_weights.device)
    return (
        _origins(weights, uniforms, own).where(resampled, own),
        log_weights.masked_fill(resampled, 0.0),
        means.masked_fill_(~due, 0.0),
    )


def _origins(weights: Tensor, uniforms: Tensor, own: Tensor) -> Tensor:
    """[P, N] int64; where weights are not to be drawn from, indices of some kind."""
    N = weights.shape[1]
    unit = 2.0 ** min(UNIT_BITS, SUM_BITS - (N - 1).bit_length())
    # Whole numbers add up to the same in any order, so no particle without weight comes by a rounding's difference.
    units = (weights * unit).long()
    ends = units.cumsum(1)
    all_units = ends[:, -1:]
    # How many of the points (u + m)/N lie before each particle's end: ceil(N · end − u) without a rounding of u.
    scaled = (ends.double() * N / all_units.double()).nan_to_num_(nan=0.0)
    whole = scaled.floor()
    reached = (whole.long() + (scaled - whole > uniforms[:, None])).clamp_max_(N).masked_fill_(ends == all_units, N)
    offspring = reached.diff(dim=1, prepend=reached.new_zeros(len(reached), 1))
    free = offspring == 0
    # The n-th slot that is free goes to the particle whose surplus holds the n-th.
    surplus = (offspring - 1).clamp_min_(0).cumsum(1)
    found = torch.searchsorted(surplus, free.cumsum(1) - 1, right=True).clamp_max_(N - 1)
    return found.where(free, own)


def follow_rows(cache: Tensor, origins: Tensor, starts: Tensor, lengths: Tensor) -> None:
    """Rows that follow another, one after the other, their tails alone."""
    T = cache.shape[4]
    followed = origins.tolist()
    for row, (origin, start, length) in enumerate(zip(followed, starts.tolist(), lengths.tolist(), strict=True)):
        if origin == row:
            continue
        if not 0 <= origin < len(followed) or followed[origin] != origin:
            raise ValueError(
                f"row {row} follows row {origin}, which is no row that stays as it is: expected one of "
                f"0 … {len(followed) - 1} whose own origin is itself"
            )
        tail = slice(max(start, 0), min(length, T))
        cache[:, :, row, :, tail].copy_(cache[:, :, origin, :, tail])
