"""The draw as an operation of torch.library: tensors and numbers in, tensors out.

An operation takes the fields of `Inputs` and gives a tensor for every result; one that was not asked
for has no elements. Values of CPU tensors are read in here, where no compiler traces.
"""

from collections.abc import Sequence
from dataclasses import fields, replace
from typing import Any

import torch
from torch import Tensor

from genarm_kernels.dispatch import INTERPRETED, on_device, register
from genarm_kernels.sampling import cpu, kernels
from genarm_kernels.sampling.arguments import GuidedSample, Inputs
from genarm_kernels.sampling.values import settle


def guided_sample(inputs: Inputs, return_logprobs: bool, return_normalizers: bool = False) -> GuidedSample:
    """Draw one token per row."""
    asked = bool(return_logprobs), bool(return_normalizers)
    tokens, logprobs, model_logprobs, status, log_normalizers = _SAMPLE(*_fields(inputs), *asked)
    return GuidedSample(
        tokens,
        logprobs if return_logprobs else None,
        model_logprobs if return_logprobs else None,
        status,
        log_normalizers if return_normalizers else None,
    )


def sample(inputs: Inputs, return_logprobs: bool, return_normalizers: bool = False) -> GuidedSample:
    """The same for a settled call, straight to what runs it: for loops that draw again and again."""
    path: Any = kernels if _on_kernels(inputs) else cpu
    inputs = replace(inputs, logits=tuple(_unit_stride(z) for z in inputs.logits))
    with on_device(inputs.logits[0].device):
        drawn: GuidedSample = path.guided_sample(inputs, return_logprobs, return_normalizers)
    return drawn


def guided_log_probs(inputs: Inputs, return_normalizers: bool = False) -> tuple[Tensor, Tensor | None]:
    """The distribution tokens are drawn from -> [B, V] float32, and where they are asked for log_normalizers [B]."""
    log_probs, log_normalizers = _LOG_PROBS(*_fields(inputs), bool(return_normalizers))
    return log_probs, log_normalizers if return_normalizers else None


def _fields(inputs: Inputs) -> tuple[Any, ...]:
    return (
        inputs.logits,
        inputs.weights,
        inputs.bias,
        inputs.temperature,
        inputs.top_k,
        inputs.top_p,
        inputs.min_p,
        inputs.base_min_p,
        inputs.base_top_p,
        inputs.seeds,
        inputs.positions,
        inputs.vocab_size,
        inputs.greedy,
        inputs.normalizer_weights,
    )


def _inputs(logits: Sequence[Tensor], weights: Tensor, bias: Tensor | None, *rest: Any) -> Inputs:
    # Strides are seen to here rather than at the edge, since a compiler may choose others than those it traced.
    return settled(Inputs(tuple(logits), weights, bias, *rest))


def settled(inputs: Inputs) -> Inputs:
    """A checked call as those that run it take it: strides, and what a CPU's values say."""
    rows: dict[str, Any] = {
        field.name: value.contiguous()
        for field in fields(inputs)
        if field.name not in ("weights", "bias") and isinstance(value := getattr(inputs, field.name), Tensor)
    }
    bias = None if inputs.bias is None else _unit_stride(inputs.bias)
    return settle(replace(inputs, logits=tuple(map(_unit_stride, inputs.logits)), bias=bias, **rows))


def _unit_stride(values: Tensor) -> Tensor:
    return values if values.stride(1) == 1 or values.shape[1] == 1 else values.contiguous()


def _on_kernels(inputs: Inputs) -> bool:
    return INTERPRETED or inputs.logits[0].is_cuda


def _sample(*arguments: Any) -> tuple[Tensor, ...]:
    inputs = _inputs(*arguments[:-2])
    if inputs.batch_size == 0:
        return _empty_sample(*arguments)
    drawn = sample(inputs, *arguments[-2:])
    return tuple(inputs.temperature.new_empty(0) if result is None else result for result in drawn)


def _log_probs(*arguments: Any) -> tuple[Tensor, ...]:
    inputs = _inputs(*arguments[:-1])
    if inputs.batch_size == 0:
        return _empty_log_probs(*arguments)
    path: Any = kernels if _on_kernels(inputs) else cpu
    with on_device(inputs.logits[0].device):
        log_probs, log_normalizers = path.guided_log_probs(inputs, arguments[-1])
    return log_probs, log_probs.new_empty(0) if log_normalizers is None else log_normalizers


def _empty_sample(*arguments: Any) -> tuple[Tensor, ...]:
    """Tensors of the results' shapes and dtypes, nothing in them."""
    logits, weights, return_logprobs, return_normalizers = *arguments[:2], *arguments[-2:]
    B, M = logits[0].shape[0], len(logits)
    return (
        weights.new_empty(B, dtype=torch.int64),
        weights.new_empty(B if return_logprobs else 0),
        weights.new_empty((B, M) if return_logprobs else 0),
        weights.new_empty(B, dtype=torch.int32),
        weights.new_empty(B if return_normalizers else 0),
    )


def _empty_log_probs(*arguments: Any) -> tuple[Tensor, ...]:
    weights, vocab_size, return_normalizers = arguments[1], arguments[_VOCAB_SIZE], arguments[-1]
    B = weights.shape[0]
    return weights.new_empty(B, vocab_size), weights.new_empty(B if return_normalizers else 0)


_FIELDS = (
    "Tensor[] logits, Tensor weights, Tensor? bias, Tensor temperature, Tensor? top_k, Tensor? top_p, Tensor? min_p, "
    "Tensor? base_min_p, Tensor? base_top_p, Tensor seeds, Tensor positions, SymInt vocab_size, "
    "bool? greedy, Tensor? normalizer_weights"
)
_VOCAB_SIZE = 11
_SAMPLE = register(
    f"guided_sample({_FIELDS}, bool return_logprobs, bool return_normalizers) -> "
    "(Tensor, Tensor, Tensor, Tensor, Tensor)",
    _sample,
    _empty_sample,
)
_LOG_PROBS = register(
    f"guided_log_probs({_FIELDS}, bool return_normalizers) -> (Tensor, Tensor)", _log_probs, _empty_log_probs
)
