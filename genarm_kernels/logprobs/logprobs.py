"""Log-probabilities of given tokens from hidden states and an LM head, the [N, V] logits never in memory.

    log p_n = z_n[y_n] − log Σ_v exp z_nv          z_n = W h_n + b
    d log p_n / d h_n = W[y_n] − Σ_v p_nv W_v       of row n alone: the forward keeps it, where it will be wanted

The products are the library's, a block of logits at a time. Blocks of whole rows give log p, the log-sum-exp and
(onehot − p) W; with a frozen head the backward is then one multiplication. dW comes from blocks of columns, each
complete in one product.
"""

# mypy: disable-error-code="no-untyped-call, no-untyped-def"

from typing import Any

import torch
from torch import Tensor

from genarm_kernels.logprobs.blocks import BACKWARD, FORWARD

_DTYPES = (torch.bfloat16, torch.float16, torch.float32, torch.float64)


def token_logprobs(
    hidden: Tensor, lm_head: Tensor, token_ids: Tensor, bias: Tensor | None = None, ignore_index: int = -100
) -> Tensor:
    """log p of one token per row, differentiable once in hidden, lm_head and bias.

    Args:
        hidden: [N, H] bfloat16, float16, float32 or float64, any strides.
        lm_head: [V, H] of the same dtype, rows at any stride.
        token_ids: [N] int64.
        bias: [V] of the same dtype; −inf takes a token out.
        ignore_index: the id of rows that count for nothing: their log p and their gradients are 0, whatever they hold.
            On a GPU they take as long as others.

    Under torch.autocast the three are cast first, as torch.nn.functional.linear does.

    Returns:
        [N] float32 (float64 of float64). Logits are in the inputs' dtype, as a model's head gives them, and everything
        after them in float32. A row with a NaN or +inf among its logits is NaN.

    Raises:
        ValueError: shapes or devices that do not fit, an id outside [0, V). On a GPU ids are not read back, since that
            would wait for the device: such a row's log p and gradient are NaN there, and so is that of lm_head.
        TypeError: dtypes that are not supported or do not agree.

    Source: Hsu et al. 2024, Liger Kernel; Wijmans et al. 2024, Cut Your Losses in Large-Vocabulary Language Models.
    """
    hidden, lm_head, bias = _autocast(hidden), _autocast(lm_head), None if bias is None else _autocast(bias)
    _check(hidden, lm_head, token_ids, bias)
    slopes = torch.is_grad_enabled() and hidden.requires_grad
    logprobs: Tensor = _TokenLogprobs.apply(hidden, lm_head, bias, token_ids.long().contiguous(), ignore_index, slopes)
    return logprobs


def _autocast(tensor: Tensor) -> Tensor:
    kind = tensor.device.type
    on = torch.amp.is_autocast_available(kind) and torch.is_autocast_enabled(kind)
    return tensor.to(torch.get_autocast_dtype(kind)) if on and tensor.dtype != torch.float64 else tensor


class _TokenLogprobs(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, hidden: Tensor, lm_head: Tensor, bias: Tensor | None, token_ids: Tensor, ignore_index: int,
        slopes: bool,
    ) -> Tensor:  # fmt: skip
        logprobs, totals, steps = FORWARD(hidden, lm_head, bias, token_ids, ignore_index, slopes)
        ctx.ignore_index = ignore_index
        again = (hidden, lm_head, bias, totals) if any(ctx.needs_input_grad[1:3]) else (None,) * 4
        ctx.save_for_backward(token_ids, steps, *again)
        return logprobs  # type: ignore[no-any-return]

    @staticmethod
    @torch.autograd.function.once_differentiable
    def backward(ctx: Any, grads: Tensor) -> tuple[Tensor | None, ...]:
        token_ids, steps, hidden, lm_head, bias, totals = ctx.saved_tensors
        for_hidden, for_head, for_bias = ctx.needs_input_grad[:3]
        grads = grads.masked_fill(token_ids == ctx.ignore_index, 0.0)
        d_hidden = d_head = d_bias = None
        if for_hidden:
            # Grads stay as they are until the product is rounded: a scaled loss's may be beyond float16.
            d_hidden = torch.mul(steps, grads[:, None], out=torch.empty_like(steps))
        if for_head or for_bias:
            d_head, d_bias = BACKWARD(
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
            f"bias is {list(bias.shape)} {bias.dtype}: expected [{len(lm_head)}] {hidden.dtype}, one value per token"
        )
    for name, tensor in (("lm_head", lm_head), ("token_ids", token_ids), ("bias", bias)):
        if tensor is not None and tensor.device != hidden.device:
            raise ValueError(f"{name} is on {tensor.device} and hidden on {hidden.device}: move one of them")
