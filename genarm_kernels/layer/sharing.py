"""Which rows of a batch begin with one and the same prefix, whose keys and values are held once.

Position t of row r is position t of prefix of_row[r] for t < lengths[r], and place t − lengths[r] of the row's own
cache from there on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True)
class Sharing:
    """R rows and P prefixes, all int32 on one device; they stay where they are, so that a captured step may read them.

    of_row: [R], the prefix that a row begins with. lengths: [R], how many of its positions, 0 for none. extents: [P],
    how many positions each prefix holds, at least the lengths of its rows. order: [R], the rows of one prefix side by
    side. first: [P + 1], where each prefix's rows begin in it.
    """

    of_row: Tensor
    lengths: Tensor
    extents: Tensor
    order: Tensor
    first: Tensor

    def regroup(self) -> None:
        """Write ``order`` and ``first`` anew, after ``of_row`` was written to; a device is not waited for."""
        self.order.copy_(self.of_row.argsort(stable=True))
        bounds = torch.arange(len(self.first), dtype=torch.int32, device=self.first.device)
        self.first.copy_(torch.searchsorted(self.of_row[self.order.long()], bounds))


def new_sharing(rows: int, prefixes: int, device: torch.device | str) -> Sharing:
    """Of so many rows, none of which has a prefix yet."""

    def zeros(count: int) -> Tensor:
        return torch.zeros(count, dtype=torch.int32, device=device)

    sharing = Sharing(zeros(rows), zeros(rows), zeros(prefixes), zeros(rows), zeros(prefixes + 1))
    sharing.regroup()
    return sharing
