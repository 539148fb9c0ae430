"""Cases and checks of attention, for every path it takes: torch on a CPU, the interpreter, a GPU."""

from dataclasses import dataclass

import torch
from torch import Tensor

from genarm_kernels import decode_attention, reference

# Of a result against the oracle on the same rounded inputs: weights and result are rounded once each.
TOLERANCE = {torch.float32: 2e-6, torch.float16: 2e-3, torch.bfloat16: 1.6e-2}
# The order in memory of a cache's rows, positions and heads.
ORDERS = {"heads first": (0, 2, 1, 3), "positions first": (0, 1, 2, 3), "rows last": (1, 2, 0, 3)}


@dataclass(frozen=True)
class Case:
    R: int
    Q: int
    H: int
    H_kv: int
    D: int
    T: int

    def make(
        self, lengths: list[int], dtype: torch.dtype, order: str = "heads first", device: str = "cpu", seed: int = 0
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Query, caches and lengths; whatever lies behind a row's length is NaN."""
        generator = torch.Generator().manual_seed(seed)
        query = torch.randn(self.R, self.Q, self.H, self.D, generator=generator)
        place = ORDERS[order]
        back = sorted(range(4), key=place.__getitem__)
        shape = (self.R, self.T, self.H_kv, self.D)
        caches = []
        for _ in range(2):
            cache = torch.randn(shape, generator=generator)
            for row, length in enumerate(lengths):
                cache[row, max(length, 0) :] = torch.nan
            caches.append(cache.to(device, dtype).permute(place).contiguous().permute(back))
        return query.to(device, dtype), *caches, torch.tensor(lengths, dtype=torch.int32, device=device)


def assert_agrees(query: Tensor, keys: Tensor, values: Tensor, lengths: Tensor, **options: object) -> Tensor:
    """decode_attention gives what the oracle gives, and 0 where a query sees nothing."""
    ours = decode_attention(query, keys, values, lengths, **options)
    assert ours.dtype == query.dtype and ours.shape == query.shape and ours.is_contiguous()
    options = {name: value for name, value in options.items() if name in ("scale", "window")}
    expected = reference.decode_attention(query, keys, values, lengths, **options)
    torch.testing.assert_close(ours.double(), expected, rtol=TOLERANCE[query.dtype], atol=TOLERANCE[query.dtype])
    return ours
