"""Cases and checks of what a step begins with, for every path it takes: torch on a CPU, the interpreter, a GPU."""

import torch
from linear_cases import SENTINEL
from residual_cases import short_blocks
from step_cases import noise
from torch import Tensor

from genarm_kernels.layer.embed import embed
from genarm_kernels.layer.residual import COUNTERS, Residual

V = 11


def begin(tokens: Tensor, S: int, N: int, dtype: torch.dtype, device: str) -> tuple[Residual, Tensor, Tensor, Tensor]:
    """`embed` of tokens [B, Q] for S streams -> the residual, positions, the embedding, the lengths there were. What
    lies around its inputs would show in results, and stays as it was."""
    B, Q = tokens.shape
    table = torch.full((V + 2, N + 8), SENTINEL, dtype=dtype, device=device)
    embedding = table[1:-1, :N].copy_(noise(V, N, seed=1))
    around = torch.arange(S * B + 2, dtype=torch.int32, device=device) * 3
    ids = torch.full((S * B * Q + 2,), 3, device=device)
    own = ids[1 : 1 + B * Q].view(B, Q).copy_(tokens)
    before, lengths = around.clone(), around[1:-1]
    residual, positions = embed(own, embedding, lengths, torch.zeros(COUNTERS, dtype=torch.int32, device=device))
    assert torch.equal(lengths, before[1:-1] + Q)
    assert torch.equal(around[[0, -1]], before[[0, -1]])
    assert residual.values.is_contiguous() and residual.values.dtype == dtype and positions.dtype == torch.int32
    return residual, positions, embedding, before[1:-1]


def squares_are_those_of(residual: Residual) -> None:
    """Of eight values each; whole blocks, zero behind the columns, in memory that held something else."""
    if not residual.squares.numel():  # torch's path needs none
        return
    rows, N = residual.values.shape
    expected = residual.values.double().square().view(rows, N // 8, 8).sum(2)
    torch.testing.assert_close(residual.squares[:, : N // 8].double(), expected, rtol=1e-6, atol=0, equal_nan=True)
    assert not residual.squares[:, N // 8 :].count_nonzero()
    assert residual.squares.shape[1] % 32 == 0


def every_stream_gets_its_rows(device: str = "cpu") -> None:
    cases = ((1, 3, 1, 40, torch.float32), (3, 2, 1, 264, torch.bfloat16), (2, 2, 3, 600, torch.float32))
    with short_blocks():
        for S, B, Q, N, dtype in cases:
            tokens = (torch.arange(B * Q).view(B, Q) * 7 + 2) % V
            tokens[0, 0], tokens[-1, -1] = 0, V - 1
            residual, positions, embedding, lengths = begin(tokens, S, N, dtype, device)
            assert torch.equal(residual.values, embedding[tokens.to(device).flatten()].repeat(S, 1))
            moves = torch.arange(Q, device=device, dtype=torch.int32)
            assert torch.equal(positions, (lengths[:, None] + moves).flatten())
            squares_are_those_of(residual)


def an_id_that_does_not_exist_is_nan(device: str = "cpu") -> None:
    """In its own rows alone. (A CPU refuses it.)"""
    tokens = torch.tensor([[4], [V], [-1], [5], [2**40]])
    residual, *_, embedding, _ = begin(tokens, 2, 40, torch.float32, device)
    rows = residual.values.view(2, 5, 40)
    assert bool(rows[:, [1, 2, 4]].isnan().all())
    assert torch.equal(rows[:, [0, 3]], embedding[[4, 5]].expand(2, 2, 40))
    squares_are_those_of(residual)


CHECKS = (every_stream_gets_its_rows, an_id_that_does_not_exist_is_nan)
