"""What a step begins with: every stream's rows of the embedding, their squares, their positions and new lengths.

    residual[s·B·Q + b·Q + q] = embedding[tokens[b, q]]       positions = lengths + q       lengths += Q

One program per row of the cache reads and writes Q rows of N elements.
"""

# mypy: disable-error-code="no-untyped-call, no-any-return, no-untyped-def, assignment"

from typing import Any

import torch
import torch.nn.functional as F
import triton
import triton.language as tl
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device
from genarm_kernels.layer.norm import LANE, block_size, sum_eight_squares
from genarm_kernels.layer.residual import Residual


@triton.jit(do_not_specialize=["B", "Q", "V"], do_not_specialize_on_alignment=["tokens", "lengths"])
def embed_kernel(
    tokens, embedding, embedding_stride, lengths, residual, squares, squares_stride, positions, B, Q, V,
    N: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One program per row of the cache; an id that does not exist gives NaN."""
    row = tl.program_id(0).to(tl.int64)
    length = tl.load(lengths + row)
    for q in range(Q):
        token = tl.load(tokens + row % B * Q + q)
        there = (token >= 0) & (token < V)
        source = embedding + tl.where(there, token, 0) * embedding_stride
        for start in tl.static_range(0, N, BLOCK):
            column = start + tl.arange(0, BLOCK)
            value = tl.load(source + column, mask=column < N, other=0.0).to(tl.float32)
            value = tl.where(there | (column >= N), value, float("nan"))
            to = residual + (row * Q + q) * N + column
            tl.store(to, value.to(residual.dtype.element_ty), mask=column < N)
            # Whole blocks, with zeros beyond N, which nobody writes again.
            to = squares + (row * Q + q) * squares_stride + start // 8 + tl.arange(0, BLOCK // 8)
            tl.store(to, sum_eight_squares(value))
        tl.store(positions + row * Q + q, length + q)
    tl.store(lengths + row, length + Q)


def rows_of(embedding: Tensor, ids: Tensor) -> Tensor:
    """Rows [N, H] of an embedding [V, H] for ids [N] int64; a GPU's are its caller's to check.

    Raises:
        IndexError: on a CPU, an id that is not one of V.
    """
    try:
        # An index would read −1 as the last row; this one refuses it on its way, at no cost.
        return F.embedding(ids, embedding)
    except IndexError as error:
        wrong = ids[(ids < 0) | (ids >= len(embedding))].tolist()
        raise IndexError(
            f"token id {wrong[0]} is none of the embedding's 0 … {len(embedding) - 1}: pass ids of its vocabulary"
        ) from error


def embed(tokens: Tensor, embedding: Tensor, lengths: Tensor, counters: Tensor) -> tuple[Residual, Tensor]:
    """Begin a pass of Q more tokens of each row -> the residual's rows [S·B·Q, N], stream-major, and their positions.

    Args:
        tokens: [B, Q] int64, the same for every stream. On a GPU an id that is not one of V makes its rows NaN.
        embedding: [V, N], rows at any stride.
        lengths: [S·B] int32, the cached tokens of each stream's rows; Q is added in place.
        counters: [2] int32 zeros, for `add_linear`.

    Returns:
        The residual, on a CPU without squares, and positions [S·B·Q] int32.

    Raises:
        IndexError: on a CPU, an id that is not one of V; lengths are then as they were.
    """
    B, Q = tokens.shape
    rows, N = len(lengths) * Q, embedding.shape[1]
    if not (tokens.is_cuda or INTERPRETED):
        values = rows_of(embedding, tokens.flatten()).repeat(len(lengths) // B, 1)
        positions = lengths.clone()
        if Q > 1:
            positions = (positions[:, None] + torch.arange(Q, dtype=torch.int32, device=lengths.device)).flatten()
        lengths += Q
        return Residual(values, values.new_empty(0), counters), positions
    block = block_size(N, embedding.element_size())
    squares = embedding.new_empty(rows, -(-N // block) * block // 8, dtype=torch.float32)
    residual = Residual(embedding.new_empty(rows, N), squares, counters)
    positions = lengths.new_empty(rows)
    with on_device(tokens.device):
        launch: Any = embed_kernel[(len(lengths),)]
        launch(
            tokens.contiguous(), embedding, embedding.stride(0), lengths, residual.values, residual.squares,
            residual.squares.stride(0), positions, B, Q, len(embedding),
            N=N, BLOCK=block, num_warps=block // (32 * LANE),
        )  # fmt: skip
    return residual, positions
