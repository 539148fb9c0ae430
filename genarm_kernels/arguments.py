"""What callers pass, checked once: every error is one line that says what, where and what to do.

After `prepare` everything has one shape: per-row values are tensors [B] on the logits' device, and what is switched off
is None. Values of tensors on a GPU are never read here, since that would wait for the device: a NaN weight there makes
its row's status "nothing left to draw" instead of an error.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields, replace
from typing import Any, NamedTuple

import torch
import triton
from torch import Tensor

from genarm_kernels.philox import row_seeds

# Fixed by the algorithm: changing it changes every drawn token.
GROUP_SIZE = 1024
MAX_MODELS = 8
MAX_VOCABULARY = 2**20
# Temperatures are used as 1/T in float32; beyond these ends the distribution is the argmax's, or flat, all the same.
MAX_INVERSE_TEMPERATURE = 1e38
MIN_INVERSE_TEMPERATURE = 2e-38
NOTHING_LEFT = 1 << MAX_MODELS
# With TRITON_INTERPRET=1 CPU tensors go through the kernels and stand for device tensors: their values are not read.
INTERPRETED = bool(triton.knobs.runtime.interpret)

PerRow = float | Tensor


class GuidedSample(NamedTuple):
    """One drawn token a row, and what was asked for beside it."""

    tokens: Tensor  # [B] int64
    logprobs: Tensor | None  # [B] float32
    model_logprobs: Tensor | None  # [B, M] float32
    status: Tensor  # [B] int32: 0 fine; bit m NaN or +inf in model m's row; bit 8 nothing left to draw


@dataclass(frozen=True, slots=True)
class Inputs:
    """A checked call. Filters that are off are None; `greedy` is None where it varies by row or cannot be known."""

    logits: tuple[Tensor, ...]  # M of [B, ≥ V], last stride 1
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

    @property
    def batch_size(self) -> int:
        return self.logits[0].shape[0]

    @property
    def groups(self) -> int:
        return -(-self.vocab_size // GROUP_SIZE)

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
    """Check a call and give it one shape."""
    models = _logits(logits)
    B, device = models[0].shape[0], models[0].device
    V = _vocabulary(models, vocab_size)
    heat, _ = _row_values("temperature", temperature, B, device, low=0.0)
    readable = _readable(device)
    if readable and B:
        cold = heat == 0
        greedy = None if not isinstance(temperature, int | float) and cold.any() != cold.all() else bool(cold[0])
    else:
        greedy = temperature == 0 if isinstance(temperature, int | float) else None
    filters = {
        name: _filter(name, value, B, device, V)
        for name, value in (
            ("top_k", top_k),
            ("top_p", top_p),
            ("min_p", min_p),
            ("base_min_p", base_min_p),
            ("base_top_p", base_top_p),
        )
    }
    return Inputs(
        logits=models,
        weights=_weights(weights, B, len(models), device),
        bias=_bias(bias, B, V, device),
        temperature=heat,
        seeds=_seeds(seed, B, device),
        positions=_row_values("position", position, B, device, integer=True)[0],
        vocab_size=V,
        greedy=greedy,
        **filters,
    )


def _readable(device: torch.device) -> bool:
    return device.type == "cpu" and not INTERPRETED


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
            raise ValueError(f"logits[{m}] has shape {list(z.shape)}: expected [B, V], one tensor a model in a list")
        if z.shape[0] != models[0].shape[0]:
            raise ValueError(
                f"logits[{m}] has {z.shape[0]} rows and logits[0] {models[0].shape[0]}: every model needs the same rows"
            )
        _same_device(f"logits[{m}]", z, models[0].device)
    return tuple(z if z.stride(1) == 1 or z.shape[1] == 1 else z.contiguous() for z in models)


def _vocabulary(models: tuple[Tensor, ...], vocab_size: int | None) -> int:
    smallest = min(z.shape[1] for z in models)
    V = smallest if vocab_size is None else vocab_size
    if isinstance(V, bool) or not isinstance(V, int):
        raise TypeError(f"vocab_size is {type(V).__name__}: expected an integer or None")
    if smallest == 0:
        raise ValueError("logits have a vocabulary of 0 ids: expected at least one")
    if not 1 <= V <= smallest:
        raise ValueError(f"vocab_size is {V}: expected 1 to {smallest}, the ids that every model has")
    if V > MAX_VOCABULARY:
        raise ValueError(f"the vocabulary has {V} ids: at most {MAX_VOCABULARY} are supported")
    return V


def _same_device(name: str, value: Tensor, device: torch.device) -> None:
    if value.device != device:
        raise ValueError(f"{name} is on {value.device} and logits[0] on {device}: move it there")


def _row_values(
    name: str,
    value: object,
    B: int,
    device: torch.device,
    integer: bool = False,
    low: float = -math.inf,
    high: float = math.inf,
) -> tuple[Tensor, float | None]:
    """A scalar or a tensor [B] -> a tensor [B], and the scalar where there is one."""
    dtype = torch.int64 if integer else torch.float32
    if isinstance(value, Tensor) and value.ndim == 0 and value.device.type == "cpu":
        value = value.item()
    if isinstance(value, Tensor):
        _same_device(name, value, device)
        kind = "an integer" if integer else "a floating-point"
        if value.is_complex() or value.dtype == torch.bool or value.is_floating_point() == integer:
            raise TypeError(f"{name} is {value.dtype}: expected {kind} tensor [B]")
        if value.ndim and value.shape != (B,):
            raise ValueError(f"{name} has shape {list(value.shape)}: expected a scalar or [{B}], one value a row")
        checked = _readable(device) and not (integer and low == -math.inf)
        if checked and not bool(((value >= low) & (value <= high)).all()):
            raise ValueError(f"{name} holds a value that is not {_span(low, high)}: correct that row")
        return value.to(dtype).expand(B), None
    if isinstance(value, bool) or not isinstance(value, int if integer else int | float):
        kind = "an integer" if integer else "a number"
        raise TypeError(f"{name} is {type(value).__name__}: expected {kind} or a tensor [B]")
    if not low <= value <= high or not (integer or math.isfinite(value)):
        raise ValueError(f"{name} is {value}: expected a value {_span(low, high)}")
    if integer and not -(2**63) <= value < 2**63:
        raise ValueError(f"{name} is {value}: expected a 64-bit integer")
    return torch.full((B,), value, dtype=dtype, device=device), value


def _span(low: float, high: float) -> str:
    return f"≥ {low:g}" if high == math.inf else f"in [{low:g}, {high:g}]"


def _filter(name: str, value: object, B: int, device: torch.device, V: int) -> Tensor | None:
    """The filter's values [B], or None where it is known to be off in every row."""
    if name == "top_k":
        values, scalar = _row_values(name, value, B, device, integer=True, low=0)
        on = (values > 0) & (values < V) if scalar is None else 0 < scalar < V
    elif name in ("top_p", "base_top_p"):
        values, scalar = _row_values(name, value, B, device, low=0.0)
        on = values < 1 if scalar is None else scalar < 1
    else:
        values, scalar = _row_values(name, value, B, device, low=0.0, high=1.0)
        on = values > 0 if scalar is None else scalar > 0
    if isinstance(on, Tensor):
        on = bool(on.any()) if _readable(device) else True
    return values if on and B else None


def _weights(weights: object, B: int, M: int, device: torch.device) -> Tensor:
    if isinstance(weights, Tensor):
        _same_device("weights", weights, device)
        readable = _readable(device)
    else:
        try:
            weights = torch.tensor(weights, dtype=torch.float32)
        except (TypeError, ValueError) as error:
            raise TypeError(f"weights cannot be read as numbers ({error}): expected [M] or [B, M] floats") from None
        readable = True
    if weights.is_complex() or weights.dtype == torch.bool:
        raise TypeError(f"weights is {weights.dtype}: expected float32 [M] or [B, M]")
    if weights.shape not in ((M,), (B, M)):
        raise ValueError(f"weights has shape {list(weights.shape)}: expected [{M}] or [{B}, {M}], one weight a model")
    if readable and not bool(weights.isfinite().all()):
        raise ValueError("weights holds a value that is not finite: correct it, or use 0 to leave a model out")
    return weights.to(device=device, dtype=torch.float32, non_blocking=True).expand(B, M)


def _bias(bias: object, B: int, V: int, device: torch.device) -> Tensor | None:
    if bias is None:
        return None
    if not isinstance(bias, Tensor):
        raise TypeError(f"bias is {type(bias).__name__}: expected a float32 tensor [V] or [B, V]")
    _same_device("bias", bias, device)
    if not bias.is_floating_point():
        raise TypeError(f"bias is {bias.dtype}: expected float32")
    if bias.shape not in ((V,), (B, V)):
        raise ValueError(f"bias has shape {list(bias.shape)}: expected [{V}] or [{B}, {V}]")
    bias = bias.to(torch.float32)
    return (bias if bias.stride(-1) == 1 else bias.contiguous()).expand(B, V)


def _seeds(seed: object, B: int, device: torch.device) -> Tensor:
    if isinstance(seed, Tensor) and seed.ndim:
        return _row_values("seed", seed, B, device, integer=True)[0]
    if isinstance(seed, Tensor) and seed.device.type == "cpu":
        seed = seed.item()
    if isinstance(seed, bool) or not isinstance(seed, int | Tensor):
        raise TypeError(f"seed is {type(seed).__name__}: expected an integer or an int64 tensor [B]")
    return row_seeds(seed, B, device)
