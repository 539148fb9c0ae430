"""token_logprobs as operations of torch.library: the products of the head, a block of logits at a time.

Blocks of whole rows give log p, log-sum-exp and slopes; blocks of columns give dW, each part of it in one product and
one rounding. A block's elements are bounded by a number that V has no part in, and it is allocated once.

On a CPU rows to ignore are left out of the products. On a GPU that would wait for the device: they are computed, and
their results are 0.
"""

from typing import Any

import torch
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device, register
from genarm_kernels.logprobs import cpu, kernels

# 32 MB of float32: with the 64 rows that it has of a vocabulary of 128k a CPU's products are nearly at their fastest.
CPU_ELEMENTS = 2**23
# 32 MB of bfloat16, of an H200's 50 MB of L2. Hidden states that are larger themselves allow for larger products.
ELEMENTS = 2**24
# Rows of a block on a device start at multiples of 128 bytes for every V.
STRIDE = 64


def forward(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, slopes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """log p [N], the rows' log-sum-exp [N], and d log p / d hidden [N, H], which is empty if slopes are not wanted."""
    counted = counted_rows(token_ids, len(lm_head), ignore_index)
    if counted is None:
        return _rows(hidden, lm_head, bias, token_ids, ignore_index, slopes)
    results = empty_forward(hidden, lm_head, bias, token_ids, ignore_index, slopes)
    found = _rows(hidden[counted], lm_head, bias, token_ids[counted], ignore_index, slopes)
    for result, part in zip(results, found, strict=True):
        if len(result):
            result.zero_().index_copy_(0, counted, part)
    return results


def _rows(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, slopes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Block of rows after block of rows."""
    logprobs, totals, steps = results = empty_forward(hidden, lm_head, bias, token_ids, ignore_index, slopes)
    N, V = len(hidden), len(lm_head)
    height = evenly(N, elements(hidden) // V)
    block = workspace(hidden, height, V)
    path: Any = kernels if on_kernels(hidden) else cpu
    with on_device(hidden.device):
        for start in range(0, N, height):
            rows = slice(start, min(start + height, N))
            logits = _product(hidden[rows], lm_head, bias, block[: rows.stop - start])
            path.finish_rows(logits, token_ids[rows], ignore_index, logprobs[rows], totals[rows], slopes)
            if slopes:
                torch.mm(logits, lm_head, out=steps[rows])
    return results


def backward(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, totals: Tensor,
    grads: Tensor, for_head: bool, for_bias: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dW [V, H] and dbias [V] for the grads [N] of log p; empty what is not wanted."""
    counted = counted_rows(token_ids, len(lm_head), ignore_index)
    if counted is not None:
        hidden, token_ids, totals, grads = (tensor[counted] for tensor in (hidden, token_ids, totals, grads))
    elif on_kernels(hidden):
        hidden = without(hidden, token_ids == ignore_index)
    return _columns(hidden, lm_head, bias, token_ids, ignore_index, totals, grads, for_head, for_bias)


def without(hidden: Tensor, ignored: Tensor) -> Tensor:
    """Ignored rows are 0: what they hold may be NaN, which a factor of 0 would not stop."""
    return hidden.masked_fill(ignored[:, None], 0.0)


def _columns(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, totals: Tensor,
    grads: Tensor, for_head: bool, for_bias: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Block of columns after block of columns."""
    results = empty_backward(hidden, lm_head, bias, token_ids, ignore_index, totals, grads, for_head, for_bias)
    d_head, d_bias = results
    N, V = len(hidden), len(lm_head)
    if N == 0:
        return d_head.zero_(), d_bias.zero_()
    width = evenly(V, elements(hidden) // N)
    block = workspace(hidden, N, width)
    path: Any = kernels if on_kernels(hidden) else cpu
    with on_device(hidden.device):
        for first in range(0, V, width):
            ids = slice(first, min(first + width, V))
            offset = None if bias is None else bias[ids]
            logits = _product(hidden, lm_head[ids], offset, block[:, : ids.stop - first])
            path.finish_columns(logits, token_ids, ignore_index, totals, grads, first)
            if for_head:
                torch.mm(logits.T, hidden, out=d_head[ids])
            if for_bias:
                torch.sum(logits, 0, out=d_bias[ids])
    return results


def _product(x: Tensor, weight: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    return torch.mm(x, weight.T, out=out) if bias is None else torch.addmm(bias, x, weight.T, out=out)


def on_kernels(hidden: Tensor) -> bool:
    return INTERPRETED or hidden.is_cuda


def elements(hidden: Tensor) -> int:
    """Logits that a block may have."""
    return max(ELEMENTS, hidden.numel()) if on_kernels(hidden) else CPU_ELEMENTS


def evenly(length: int, most: int) -> int:
    """The length of a block, so that blocks are about as long as each other: the last is no small rest."""
    most = max(1, most)
    step = 128 if most >= 128 else 16 if most >= 16 else 1
    share = -(-length // -(-length // (most // step * step))) if length else 1
    return min(length, -(-share // step) * step) or 1


def workspace(hidden: Tensor, rows: int, columns: int) -> Tensor:
    stride = -(-columns // STRIDE) * STRIDE if on_kernels(hidden) else columns
    return hidden.new_empty(rows, stride)[:, :columns]


def counted_rows(token_ids: Tensor, V: int, ignore_index: int) -> Tensor | None:
    """On a CPU, where they can be read without a wait: the rows that are not to be ignored, None if all are."""
    if INTERPRETED or token_ids.device.type != "cpu":
        return None
    counted = token_ids != ignore_index
    strange = ((token_ids < 0) | (token_ids >= V)) & counted
    if bool(strange.any()):
        row = int(strange.nonzero()[0])
        raise ValueError(
            f"token_ids[{row}] is {int(token_ids[row])}: expected 0 to {V - 1}, or {ignore_index} to ignore the row"
        )
    return None if bool(counted.all()) else counted.nonzero()[:, 0]


def empty_forward(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, slopes: bool
) -> tuple[Tensor, Tensor, Tensor]:
    """Results of their shapes and dtypes, nothing in them."""
    N, dtype = len(hidden), torch.promote_types(hidden.dtype, torch.float32)
    steps = hidden.new_empty(hidden.shape if slopes else 0)
    return hidden.new_empty(N, dtype=dtype), hidden.new_empty(N, dtype=dtype), steps


def empty_backward(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, totals: Tensor,
    grads: Tensor, for_head: bool, for_bias: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    d_head = hidden.new_empty(lm_head.shape if for_head else 0)
    return d_head, hidden.new_empty(len(lm_head) if for_bias else 0)


FORWARD = register(
    "token_logprobs(Tensor hidden, Tensor lm_head, Tensor? bias, Tensor token_ids, int ignore_index, bool slopes)"
    " -> (Tensor, Tensor, Tensor)",
    forward,
    empty_forward,
)
BACKWARD = register(
    "token_logprobs_head(Tensor hidden, Tensor lm_head, Tensor? bias, Tensor token_ids, int ignore_index,"
    " Tensor totals, Tensor grads, bool for_head, bool for_bias) -> (Tensor, Tensor)",
    backward,
    empty_backward,
)
