"""The implementations that the sampling suite compares, each at its best settings (docs/benchmarks.md).

A builder takes the filters, B and the device, and gives a function from a `Draw` to tokens [B]. Whatever can be
prepared once, outside a decoding step, is prepared there.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor

from genarm_kernels import guided_sample, row_seeds


@dataclass(frozen=True, slots=True)
class Draw:
    """The inputs of one call."""

    logits: list[Tensor]  # M of [B, V]
    weights: Tensor  # [M] float32
    seeds: Tensor  # [B] int64


Sampler = Callable[[Draw], Tensor]
Builder = Callable[[dict[str, Any], int, torch.device], Sampler]


def make_draw(B: int, M: int, V: int, dtype: torch.dtype, device: torch.device, index: int = 0) -> Draw:
    """Random logits; the index keeps the noise of one set of inputs from being another's."""
    logits = [(2 * torch.randn(B, V, device=device)).to(dtype) for _ in range(M)]
    return Draw(logits, torch.linspace(1.0, 0.5, M, device=device), row_seeds(index, B, device))


def ours(filters: dict[str, Any], B: int, device: torch.device, return_logprobs: bool = False) -> Sampler:
    """guided_sample as the engine calls it: every per-row value is a tensor on the device."""
    temperature = torch.ones(B, device=device)
    position = torch.zeros(B, dtype=torch.int64, device=device)
    values = {name: torch.full((B,), value, device=device) for name, value in filters.items()}
    return lambda draw: (
        guided_sample(
            draw.logits,
            draw.weights,
            temperature=temperature,
            seed=draw.seeds,
            position=position,
            return_logprobs=return_logprobs,
            **values,
        ).tokens
    )


def weighted_sum(logits: list[Tensor], weights: Tensor) -> Tensor:
    """The combined scores [B, V] float32 without the models' normalisers, which no softmax sees."""
    return sum(w * z.float() for w, z in zip(weights.unbind(), logits, strict=True))


def chain(logits: list[Tensor], weights: Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """What one writes in PyTorch: a log-softmax a model, their weighted sum, filters, softmax, a draw."""
    scores = weighted_sum([z.float().log_softmax(-1) for z in logits], weights)
    if top_k:
        scores = scores.masked_fill(scores < scores.topk(top_k).values[:, -1:], -torch.inf)
    if top_p < 1:
        values, order = scores.sort(descending=True)
        probs = values.softmax(-1)
        values = values.masked_fill(probs.cumsum(-1) - probs >= top_p, -torch.inf)
        scores = torch.empty_like(scores).scatter(1, order, values)
    probs = scores.softmax(-1)
    if min_p:
        probs = probs.masked_fill(probs < min_p * probs.amax(-1, keepdim=True), 0.0)
    # multinomial's own race, without its validation.
    return (probs / torch.empty_like(probs).exponential_()).argmax(-1)


def eager(filters: dict[str, Any], B: int, device: torch.device) -> Sampler:
    return lambda draw: chain(draw.logits, draw.weights, **filters)


def compiled(filters: dict[str, Any], B: int, device: torch.device) -> Sampler:
    # After a few recompilations of one function torch.compile falls back to eager without a word.
    torch.compiler.reset()
    run = torch.compile(partial(chain, **filters), fullgraph=True, dynamic=False)
    return lambda draw: run(draw.logits, draw.weights)


def hugging_face(filters: dict[str, Any], B: int, device: torch.device) -> Sampler:
    """The warpers of transformers in generate's order; at temperature 1 generate adds no temperature warper."""
    from transformers import LogitsProcessorList, MinPLogitsWarper, TopKLogitsWarper, TopPLogitsWarper

    warpers = {"top_k": TopKLogitsWarper, "top_p": TopPLogitsWarper, "min_p": MinPLogitsWarper}
    processors = LogitsProcessorList(warpers[name](value) for name, value in filters.items())
    context = torch.zeros(B, 1, dtype=torch.int64, device=device)

    def sample(draw: Draw) -> Tensor:
        scores = processors(context, weighted_sum(draw.logits, draw.weights))
        return torch.multinomial(scores.softmax(-1), num_samples=1)[:, 0]

    return sample


def flashinfer(filters: dict[str, Any], B: int, device: torch.device) -> Sampler:
    """A compiled combination, then FlashInfer's kernel for the filters at hand."""
    sampling = import_module("flashinfer.sampling")
    torch.compiler.reset()
    combine = torch.compile(weighted_sum, fullgraph=True, dynamic=False, disable=device.type == "cpu")
    # Seeds as tensors are what its kernels take inside a CUDA graph.
    noise = {
        "seed": torch.zeros(1, dtype=torch.int64, device=device),
        "offset": torch.zeros(1, dtype=torch.int64, device=device),
    }
    kernels: dict[frozenset[str], Callable[[Tensor], Tensor]] = {
        frozenset(): lambda scores: sampling.sampling_from_logits(scores, **noise),
        frozenset({"top_k", "top_p"}): lambda scores: sampling.top_k_top_p_sampling_from_logits(
            scores, filters["top_k"], filters["top_p"], **noise
        ),
    }
    for name in ("top_k", "top_p", "min_p"):
        kernel = getattr(sampling, f"{name}_sampling_from_probs")
        kernels[frozenset({name})] = lambda scores, name=name, kernel=kernel: kernel(
            sampling.softmax(scores), filters[name], **noise
        )
    sample = kernels[frozenset(filters)]
    return lambda draw: sample(combine(draw.logits, draw.weights)).long()


def missing(implementation: str, device: torch.device) -> str | None:
    """Why an implementation cannot be measured here, if it cannot."""
    if implementation != "flashinfer":
        return None
    if find_spec("flashinfer") is None:
        return "flashinfer is not installed (pip install flashinfer-python)"
    if device.type != "cuda":
        return "flashinfer needs a CUDA device"
    known = inspect.signature(import_module("flashinfer.sampling").sampling_from_logits).parameters
    return None if "seed" in known else "this flashinfer takes no seeds, which a CUDA graph needs; use a newer one"


BUILDERS: dict[str, Builder] = {
    "ours": ours,
    "ours+logprobs": partial(ours, return_logprobs=True),
    "eager": eager,
    "compiled": compiled,
    "hf": hugging_face,
    "flashinfer": flashinfer,
}
