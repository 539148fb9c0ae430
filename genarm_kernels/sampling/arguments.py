"""What callers pass, checked once: every error is one line that says what, where and what to do.

After `prepare` everything has one shape: per-row values are tensors [B] on the logits' device, and what is switched off
by a number is None. Only kinds, dtypes, shapes, devices and Python's numbers are looked at, so a compiler can trace it;
what tensors hold is for values.py, on a CPU, once the operation runs.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
from torch import Tensor

from genarm_kernels.sampling.settings import filter_values, readable, row_values, same_device, seed_values

# Fixed by the algorithm: changing it changes every drawn token.
GROUP_SIZE = 1024
MAX_MODELS = 8
MAX_VOCABULARY = 2**20
# Temperatures are used as 1/T in float32; beyond these ends the distribution is the argmax's, or flat, anyway (of
# scores below 1e31).
MAX_INVERSE_TEMPERATURE = 1e38
MIN_INVERSE_TEMPERATURE = 2e-38
NOTHING_LEFT = 1 << MAX_MODELS
NOT_FINITE = "weights holds a value that is not finite: correct it, or use 0 to leave a model out"

PerRow = float | Tensor


class GuidedSample(NamedTuple):
    """One drawn token per row, and what was asked for beside it."""

    tokens: Tensor  # [B] int64
    logprobs: Tensor | None  # [B] float32
    model_logprobs: Tensor | None  # [B, M] float32
    status: Tensor  # [B] int32: 0 fine; bit m NaN or +inf in model m's row; bit 8 nothing left to draw
    log_normalizers: Tensor | None = None  # [B] float32


@dataclass(frozen=True, slots=True)
class Inputs:
    """A checked call. Filters known to be off are None; `greedy` is None where it varies by row or is not known.

    Inside an operation the last stride of every tensor but the weights is 1.
    """

    logits: tuple[Tensor, ...]  # M of [B, ≥ V]
    weights: Tensor  # [B, M] float32
    bias: Tensor | None  # [B, V] float32
    temperature: Tensor  # [B] float32
    top_k: Tensor | None  # [B] int64
    top_p: Tensor | None  # [B] float32, as the rest
    min_p: Tensor | None
    base_min_p: Tensor | None
    base_top_p: Tensor | None
    seeds: Tensor  # [B] int64
    positions: Tensor  # [B] int64
    vocab_size: int
    greedy: bool | None
    # [B, M] float32: whose normalisers log_normalizers is without, where the scores come as a bias; else the weights
    normalizer_weights: Tensor | None = None

    @property
    def batch_size(self) -> int:
        return self.logits[0].shape[0]

    @property
    def groups(self) -> int:
        return -(-self.vocab_size // GROUP_SIZE)

    @property
    def shares(self) -> Tensor:
        """[B, M] what log_normalizers weighs the models' own normalisers with."""
        return self.weights if self.normalizer_weights is None else self.normalizer_weights

    @property
    def has_base_filter(self) -> bool:
        return self.base_min_p is not None or self.base_top_p is not None

    @property
    def has_score_filter(self) -> bool:
        return self.top_k is not None or self.top_p is not None or self.min_p is not None

    def rows(self, start: int, stop: int) -> "Inputs":
        """The call restricted to some rows."""
        cut: dict[str, Any] = {
            field.name: value[start:stop]
            for field in fields(self)
            if isinstance(value := getattr(self, field.name), Tensor)
        }
        return replace(self, logits=tuple(z[start:stop] for z in self.logits), **cut)


def prepare(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]],
    temperature: PerRow,
    top_k: int | Tensor,
    top_p: PerRow,
    min_p: PerRow,
    base_min_p: PerRow,
    base_top_p: PerRow,
    bias: Tensor | None,
    seed: int | Tensor,
    position: int | Tensor,
    vocab_size: int | None,
) -> Inputs:
    """Check a call and give it one shape, without a look at what tensors hold."""
    models = _logits(logits)
    B, device = models[0].shape[0], models[0].device
    V = _vocabulary(models, vocab_size)
    return Inputs(
        logits=models,
        weights=_weights(weights, B, len(models), device),
        bias=_bias(bias, B, V, device),
        temperature=row_values("temperature", temperature, B, device),
        top_k=filter_values("top_k", top_k, B, device, V),
        top_p=filter_values("top_p", top_p, B, device, V),
        min_p=filter_values("min_p", min_p, B, device, V),
        base_min_p=filter_values("base_min_p", base_min_p, B, device, V),
        base_top_p=filter_values("base_top_p", base_top_p, B, device, V),
        seeds=seed_values(seed, B, device),
        positions=row_values("position", position, B, device, integer=True),
        vocab_size=V,
        greedy=bool(temperature == 0) if isinstance(temperature, int | float) else None,
    )


def _logits(logits: Sequence[Tensor]) -> tuple[Tensor, ...]:
    models = tuple(logits)
    if not 1 <= len(models) <= MAX_MODELS:
        raise ValueError(f"logits holds {len(models)} models: pass 1 to {MAX_MODELS} tensors [B, V], the base's first")
    for m, z in enumerate(models):
        if not isinstance(z, Tensor):
            raise TypeError(f"logits[{m}] is {type(z).__name__}: expected a tensor [B, V]")
        if z.dtype not in (torch.bfloat16, torch.float16, torch.float32):
            raise TypeError(f"logits[{m}] is {z.dtype}: expected bfloat16, float16 or float32; convert it")
        if z.ndim != 2:
            raise ValueError(f"logits[{m}] has shape {list(z.shape)}: expected [B, V], one tensor per model in a list")
        if z.shape[0] != models[0].shape[0]:
            raise ValueError(
                f"logits[{m}] has {z.shape[0]} rows and logits[0] {models[0].shape[0]}: every model needs the same rows"
            )
        same_device(f"logits[{m}]", z, models[0].device)
    return models


def _vocabulary(models: tuple[Tensor, ...], vocab_size: int | None) -> int:
    smallest = min(z.shape[1] for z in models)
    if vocab_size is not None and (isinstance(vocab_size, bool) or not isinstance(vocab_size, int)):
        raise TypeError(f"vocab_size is {type(vocab_size).__name__}: expected an integer or None")
    V = smallest if vocab_size is None else vocab_size
    if smallest == 0:
        raise ValueError("logits have a vocabulary of 0 ids: expected at least one")
    if not 1 <= V <= smallest:
        raise ValueError(f"vocab_size is {V}: expected 1 to {smallest}, the ids that every model has")
    if V > MAX_VOCABULARY:
        raise ValueError(f"the vocabulary has {V} ids: at most {MAX_VOCABULARY} are supported")
    return V


def _weights(weights: object, B: int, M: int, device: torch.device) -> Tensor:
    listed = not isinstance(weights, Tensor)
    if isinstance(weights, Tensor):
        same_device("weights", weights, device)
    else:
        try:
            weights = torch.tensor(weights, dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise TypeError(f"weights cannot be read as numbers ({error}): expected [M] or [B, M] floats") from None
    if weights.is_complex() or weights.dtype == torch.bool:
        raise TypeError(f"weights is {weights.dtype}: expected float32 [M] or [B, M]")
    if weights.shape not in ((M,), (B, M)):
        raise ValueError(f"weights has shape {list(weights.shape)}: expected [{M}] or [{B}, {M}], one weight per model")
    if listed and readable(weights) and not bool(weights.isfinite().all()):
        raise ValueError(NOT_FINITE)
    return weights.to(device=device, dtype=torch.float32, non_blocking=True).expand(B, M)


def _bias(bias: object, B: int, V: int, device: torch.device) -> Tensor | None:
    if bias is None:
        return None
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias is {type(bias).__name__}: expected a float32 tensor [V] or [B, V]")
    same_device("bias", bias, device)
    if not bias.is_floating_point():
        raise TypeError(f"bias is {bias.dtype}: expected float32")
    if bias.shape not in ((V,), (B, V)):
        raise ValueError(f"bias has shape {list(bias.shape)}: expected [{V}] or [{B}, {V}]")
    return bias.to(torch.float32).expand(B, V)
