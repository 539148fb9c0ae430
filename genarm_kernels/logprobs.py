"""Log-probabilities of given tokens from hidden states and an LM head, the [N, V] logits never in memory.

    log p_n = z_n[y_n] − log Σ_v exp z_nv          z_n = W h_n + b
    d log p_n / d h_n = W[y_n] − Σ_v p_nv W_v       of row n alone: the forward keeps it, where it will be wanted

The products are the library's, a block of logits at a time. Blocks of whole rows give log p, the log-sum-exp and
(onehot − p) W; with a frozen head the backward is then one multiplication. dW comes from blocks of columns, each
complete in one product.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def"

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor

from genarm_kernels import eager_logprobs
from genarm_kernels.arguments import INTERPRETED
from genarm_kernels.library import register

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)
_CPU_ELEMENTS = 2**20


def token_logprobs(
    hidden: Tensor, lm_head: Tensor, token_ids: Tensor, bias: Tensor | None = None, ignore_index: int = -100
) -> Tensor:
    """log p of one token a row, differentiable once in hidden, lm_head and bias.

    Args:
        hidden: [N, H] bfloat16, float16, float32 or float64, any strides.
        lm_head: [V, H] of the same dtype, rows at any stride.
        token_ids: [N] int64.
        bias: [V] of the same dtype; −inf takes a token out.
        ignore_index: the id of rows that count for nothing: their log p and their gradients are 0.

    Under torch.autocast the three are cast first, as torch.nn.functional.linear does.

    Returns:
        [N] float32 (float64 of float64). Logits are in the inputs' dtype, as a model's head gives them, and everything
        after them in float32. A row with a NaN or +inf among its logits is NaN.

    Raises:
        ValueError: shapes or devices that do not fit, an id outside [0, V). On a GPU ids are not read back, since that
            would wait for the device: log p is NaN there.
        TypeError: dtypes that are not supported or do not agree.
    """
    if torch.is_autocast_enabled(hidden.device.type):
        dtype = torch.get_autocast_dtype(hidden.device.type)
        hidden, lm_head = hidden.to(dtype), lm_head.to(dtype)
        bias = None if bias is None else bias.to(dtype)
    _check(hidden, lm_head, token_ids, bias)
    logprobs: Tensor = _TokenLogprobs.apply(
        hidden, lm_head, bias, token_ids.long(), ignore_index, torch.is_grad_enabled() and hidden.requires_grad
    )
    return logprobs


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int,
        steps: bool,
    ) -> Tensor:  # fmt: skip
        logprobs, totals, slopes = _FORWARD(hidden, lm_head, bias, token_ids, ignore_index, steps)
        head = any(ctx.needs_input_grad[1:3])
        ctx.ignore_index = ignore_index
        ctx.save_for_backward(
            slopes if steps else None, *((hidden, lm_head, bias, token_ids, totals) if head else (None,) * 5)
        )
        return logprobs  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        slopes, hidden, lm_head, bias, token_ids, totals = ctx.saved_tensors
        for_hidden, for_head, for_bias = ctx.needs_input_grad[:3]
        d_hidden = slopes * grads.to(slopes.dtype)[:, None] if for_hidden else None
        d_head = d_bias = None
        if for_head or for_bias:
            d_head, d_bias = _BACKWARD(
                hidden, lm_head, bias, token_ids, ctx.ignore_index, totals, grads, for_head, for_bias
            )
        return d_hidden, d_head if for_head else None, d_bias if for_bias else None, None, None, None


def _check(hidden: Tensor, lm_head: Tensor, token_ids: Tensor, bias: Tensor | None) -> None:
    if hidden.ndim != 2 or lm_head.ndim != 2 or hidden.shape[1] != lm_head.shape[1] or not len(lm_head):
        raise ValueError(
            f"hidden has shape {list(hidden.shape)} and lm_head {list(lm_head.shape)}: expected [N, H] and [V, H] of"
            " one H; flatten leading dimensions"
        )
    if hidden.dtype not in _DTYPES:
        raise TypeError(f"hidden is {hidden.dtype}: expected bfloat16, float16, float32 or float64; convert it")
    if lm_head.dtype != hidden.dtype:
        raise TypeError(f"hidden is {hidden.dtype} and lm_head {lm_head.dtype}: convert one of them")
    if token_ids.is_floating_point() or token_ids.is_complex() or token_ids.dtype == torch.bool:
        raise TypeError(f"token_ids is {token_ids.dtype}: expected int64 [N]")
    if token_ids.shape != hidden.shape[:1]:
        raise ValueError(f"token_ids has shape {list(token_ids.shape)}: expected [{len(hidden)}], a token a row")
    if bias is not None and (bias.shape != lm_head.shape[:1] or bias.dtype != hidden.dtype):
        raise ValueError(
            f"bias is {list(bias.shape)} {bias.dtype}: expected [{len(lm_head)}] {hidden.dtype}, a value a token"
        )
    for name, tensor in (("lm_head", lm_head), ("token_ids", token_ids), ("bias", bias)):
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(f"{name} is on {tensor.device} and hidden on {hidden.device}: move one of them")


def _forward(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, steps: bool
) -> tuple[Tensor, Tensor, Tensor]:
    _check_ids(token_ids, len(lm_head), ignore_index)
    logprobs, totals, slopes = _empty_forward(hidden, lm_head, bias, token_ids, ignore_index, steps)
    N, V = len(hidden), len(lm_head)
    rows = max(1, min(N, _CPU_ELEMENTS // V))
    workspace = hidden.new_empty(rows, V)
    for start, stop in _spans(N, rows):
        logits = _logits(hidden[start:stop], lm_head, bias, workspace[: stop - start])
        ids = token_ids[start:stop]
        logprobs[start:stop], totals[start:stop] = eager_logprobs.finish_rows(logits, ids, ignore_index, steps)
        if steps:
            torch.mm(logits, lm_head, out=slopes[start:stop])
    return logprobs, totals, slopes


def _backward(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, totals: Tensor,
    grads: Tensor, for_head: bool, for_bias: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """dW [V, H] and dbias [V], columns of the logits after columns."""
    d_head, d_bias = _empty_backward(hidden, lm_head, bias, token_ids, ignore_index, totals, grads, for_head, for_bias)
    N, V = len(hidden), len(lm_head)
    columns = max(1, min(V, _CPU_ELEMENTS // max(N, 1)))
    workspace = hidden.new_empty(N * columns)
    for start, stop in _spans(V, columns):
        block = workspace[: N * (stop - start)].view(N, stop - start)
        logits = _logits(hidden, lm_head[start:stop], None if bias is None else bias[start:stop], block)
        eager_logprobs.finish_columns(logits, token_ids, ignore_index, totals, grads, start)
        if for_head:
            torch.mm(logits.T, hidden, out=d_head[start:stop])
        if for_bias:
            torch.sum(logits, 0, out=d_bias[start:stop])
    return d_head, d_bias


def _logits(hidden: Tensor, lm_head: Tensor, bias: Tensor | None, out: Tensor) -> Tensor:
    if bias is None:
        return torch.mm(hidden, lm_head.T, out=out)
    return torch.addmm(bias, hidden, lm_head.T, out=out)


def _spans(length: int, step: int) -> Iterator[tuple[int, int]]:
    for start in range(0, length, step):
        yield start, min(start + step, length)


def _check_ids(token_ids: Tensor, V: int, ignore_index: int) -> None:
    """On a CPU, where ids can be read without a wait."""
    if INTERPRETED or token_ids.device.type != "cpu":
        return
    strange = ((token_ids < 0) | (token_ids >= V)) & (token_ids != ignore_index)
    if bool(strange.any()):
        row = int(strange.nonzero()[0])
        raise ValueError(
            f"token_ids[{row}] is {int(token_ids[row])}: expected an id in [0, {V}), or ignore_index ({ignore_index})"
        )


def _empty_forward(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, steps: bool
) -> tuple[Tensor, Tensor, Tensor]:
    N, dtype = len(hidden), torch.promote_types(hidden.dtype, torch.float32)
    slopes = hidden.new_empty(hidden.shape) if steps else hidden.new_empty(0)
    return hidden.new_empty(N, dtype=dtype), hidden.new_empty(N, dtype=dtype), slopes


def _empty_backward(
    hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int, totals: Tensor,
    grads: Tensor, for_head: bool, for_bias: bool,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    d_head = hidden.new_empty(lm_head.shape if for_head else 0)
    return d_head, hidden.new_empty(len(lm_head) if for_bias else 0)


_FORWARD = register(
    "token_logprobs(Tensor hidden, Tensor lm_head, Tensor? bias, Tensor token_ids, int ignore_index, bool steps)"
    " -> (Tensor, Tensor, Tensor)",
    _forward,
    _empty_forward,
)
_BACKWARD = register(
    "token_logprobs_head(Tensor hidden, Tensor lm_head, Tensor? bias, Tensor token_ids, int ignore_index,"
    " Tensor totals, Tensor grads, bool for_head, bool for_bias) -> (Tensor, Tensor)",
    _backward,
    _empty_backward,
)
