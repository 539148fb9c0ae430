"""What the sampling suite measures: its grid, the implementations, and whether what they draw is right.

There is one case for each implementation, shape and filter. Cases beyond a device's time are marked `full`; the rest
come in the order of their importance, so that a run cut short has measured the targets. A builder takes the filters, B
and the device, and gives a function from a `Draw` to tokens [B]; it prepares what a decoding step need not.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from importlib import import_module
from importlib.util import find_spec
from itertools import product
from typing import Any

import torch
from torch import Tensor

from genarm_kernels import guided_log_probs, guided_sample, row_seeds

FILTERS: dict[str, dict[str, Any]] = {
    "none": {},
    "top_k": {"top_k": 50},
    "top_p": {"top_p": 0.9},
    "top_k+top_p": {"top_k": 50, "top_p": 0.9},
    "min_p": {"min_p": 0.05},
}
# The eager chain is cheap to measure; what compiles, or runs outside a graph, keeps to the focus.
EVERYWHERE = ("ours", "eager")
FOCUS_FILTERS = ("none", "top_k+top_p")
ENOUGH_TOKENS = 64
STANDARD_ERRORS = 6.0
SLACK = 0.05  # nats per token: what the relaxed filters add to the entropy


@dataclass(frozen=True, slots=True)
class Case:
    """One benchmark."""

    B: int
    M: int
    V: int
    filters: str
    implementation: str

    @property
    def name(self) -> str:
        return f"B{self.B}-M{self.M}-V{self.V}-{self.filters}-{self.implementation}"


@dataclass(frozen=True, slots=True)
class Grid:
    """Shapes, and among them the focus: where every implementation is measured."""

    batches: tuple[int, ...]
    models: tuple[int, ...]
    vocabularies: tuple[int, ...]
    focus_batches: tuple[int, ...]
    focus_models: tuple[int, ...]
    focus_vocabulary: int
    everywhere: tuple[str, ...] = EVERYWHERE

    def cases(self) -> list[Case]:
        """All of them, the focus first, then implementation by implementation."""
        crossed = [Case(*values) for values in product(self.batches, self.models, self.vocabularies, FILTERS, BUILDERS)]
        focus = [case for case in crossed if self.in_focus(case)]
        others = [case for case in crossed if not self.in_focus(case)]
        return [*focus, *sorted(others, key=lambda case: list(BUILDERS).index(case.implementation))]

    def in_focus(self, case: Case) -> bool:
        return (
            self.focus_vocabulary == case.V
            and case.B in self.focus_batches
            and case.M in self.focus_models
            and case.filters in FOCUS_FILTERS
        )

    def fits(self, case: Case) -> bool:
        """Whether the case belongs to a run on a device, or to the full run only."""
        return case.implementation in self.everywhere or self.in_focus(case)


GPU_GRID = Grid((1, 8, 64, 256), (1, 2, 4), (32000, 128256, 151936), (1, 64), (2, 4), 128256)
CPU_GRID = Grid((1, 8), (1, 2), (4096, 32000), (8,), (2,), 4096, everywhere=(*EVERYWHERE, "hf"))


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


def ours(filters: dict[str, Any], B: int, device: torch.device, **asked: bool) -> Sampler:
    """guided_sample as the engine calls it: every per-row value is a tensor on the device. ``asked``: what it gives
    beside the tokens."""
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
            **asked,
            **values,
        ).tokens
    )


def weighted_sum(logits: list[Tensor], weights: Tensor) -> Tensor:
    """The combined scores [B, V] float32 without the models' normalisers, which no softmax sees."""
    return sum(w * z.float() for w, z in zip(weights.unbind(), logits, strict=True))


def chain(logits: list[Tensor], weights: Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """What one writes in PyTorch: a log-softmax per model, their weighted sum, filters, softmax, a draw."""
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
    "ours+normalizers": partial(ours, return_normalizers=True),
    "eager": eager,
    "compiled": compiled,
    "hf": hugging_face,
    "flashinfer": flashinfer,
}


def check_tokens(draws: list[Draw], tokens: list[Tensor], filters: dict[str, Any]) -> None:
    """Raise AssertionError if the first few draws' tokens cannot have come from the guided distribution.

    Every token must be inside the filtered support, and their mean log-probability within six standard errors of what
    the distribution gives. The filters are relaxed a little, since float32 rounding moves ids across a filter's edge.
    """
    options = relaxed(filters)
    gap = variance = 0.0
    count = 0
    for draw, drawn in zip(draws, tokens, strict=True):
        log_probs = guided_log_probs(draw.logits, draw.weights, **options)  # [B, V]
        B, V = log_probs.shape
        assert drawn.shape == (B,), f"tokens have shape {list(drawn.shape)}, expected [{B}]"
        assert bool(((drawn >= 0) & (drawn < V)).all()), f"a token is not an id below {V}"
        own = log_probs.gather(1, drawn[:, None]).double()
        outside = int((own == -float("inf")).sum())
        assert outside == 0, f"{outside} of {B} tokens are outside what the filters {filters} keep"
        mean, spread = moments(log_probs)
        gap += float((own[:, 0] - mean).sum())
        variance += float(spread.sum())
        count += B
        if count >= ENOUGH_TOKENS:
            break
    bound = STANDARD_ERRORS * variance**0.5 + SLACK * count
    assert abs(gap) <= bound, f"log-probabilities of {count} tokens are off by {gap:.1f} in all, at most {bound:.1f}"


def relaxed(filters: dict[str, Any]) -> dict[str, Any]:
    """The same filters, keeping slightly more."""
    edges = {
        "top_k": lambda k: k + 2,
        "top_p": lambda p: min(p + 1e-3, 1.0),
        "min_p": lambda p: 0.99 * p,
    }
    return {name: edges[name](value) for name, value in filters.items()}


def moments(log_probs: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and variance [B] of the log-probability of a token drawn from each row."""
    finite = log_probs.clamp_min(-1e4).double()
    probs = finite.exp()
    mean = (probs * finite).sum(-1)
    return mean, ((probs * finite.square()).sum(-1) - mean.square()).clamp_min(0.0)
