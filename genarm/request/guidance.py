"""Weights, beta, temperature, filters, biases and seeds -> the tensors one decoding step reads.

p(y_t) ∝ exp( (1/T) · Σ_m w_m · log p_m(y_t) ), with w_0 the base weight and w_i = α_i / β for reward model i.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from difflib import get_close_matches
from numbers import Integral, Real
from typing import Any

import torch
from torch import Tensor

import genarm_kernels

from ..errors import InvalidArgumentError, RewardNameError

PerRow = float | Sequence[float] | Tensor
Weights = Mapping[str, float] | Sequence[Mapping[str, float]] | Sequence[float] | Tensor | None
LogitBias = Mapping[int, float] | Tensor | None
AllowedTokens = Sequence[int] | Tensor | None


# The value at which a setting does nothing; no temperature does nothing.
OFF = {
    "temperature": None,
    "top_k": 0,
    "top_p": 1.0,
    "min_p": 0.0,
    "base_min_p": 0.0,
    "base_top_p": 1.0,
    "repetition_penalty": 1.0,
}


@dataclass(frozen=True, slots=True)
class Guidance:
    """All a step reads besides logits. B rows, M = K + 1 models, V ids.

    weights [B, M] float32 (column 0 the base); the filters and the penalty are scalars or [B] tensors; bias is None,
    [V] or [B, V] float32; seeds [B] int64; gate is None, or [B, 2] float32: the least entropy and the largest top
    probability of the base at which the reward models count (gates.py).
    """

    weights: Tensor
    seeds: Tensor
    temperature: float | Tensor = 1.0
    top_k: int | Tensor = 0
    top_p: float | Tensor = 1.0
    min_p: float | Tensor = 0.0
    base_min_p: float | Tensor = 0.0
    base_top_p: float | Tensor = 1.0
    repetition_penalty: float | Tensor = 1.0
    bias: Tensor | None = None
    gate: Tensor | None = None

    def select(self, rows: Tensor) -> Guidance:
        """The same guidance for some of the rows, [n] int64."""
        batch = len(self.weights)

        def pick(value: object) -> object:
            has_rows = isinstance(value, Tensor) and value.dim() > 0 and len(value) == batch
            return value[rows] if has_rows else value  # type: ignore[index]

        picked = {f.name: pick(getattr(self, f.name)) for f in fields(self) if f.name != "bias"}
        bias = self.bias[rows] if self.bias is not None and self.bias.dim() == 2 else self.bias
        return replace(self, bias=bias, **picked)  # type: ignore[arg-type]

    def of_rows(self) -> list[Tensor]:
        """Its tensors that have a row for each of the rows."""
        values = [getattr(self, field.name) for field in fields(self) if field.name != "bias"]
        biases = [self.bias] if self.bias is not None and self.bias.dim() == 2 else []
        return [value for value in values if isinstance(value, Tensor)] + biases

    def in_tensors(self) -> Guidance:
        """The same with a tensor [B] for everything that is on, so that other values need no other captured step."""
        rows = {
            name: torch.full_like(self.seeds, value, dtype=torch.int64 if name == "top_k" else torch.float32)
            for name, off in OFF.items()
            if not isinstance(value := getattr(self, name), Tensor) and value != off
        }
        return replace(self, **rows)

    @property
    def filters(self) -> dict[str, Any]:
        """The keywords of guided_sample that shape the distribution."""
        names = ("temperature", "top_k", "top_p", "min_p", "base_min_p", "base_top_p")
        return {name: getattr(self, name) for name in names}


def per_row(
    name: str, value: PerRow, batch: int, device: torch.device, low: float = -math.inf, high: float = math.inf
) -> float | Tensor:
    """A scalar, or [B] numbers as a float32 tensor, each finite and within [low, high]."""
    if isinstance(value, Tensor) and value.dim() == 0:
        value = float(value)
    if isinstance(value, Real) and not isinstance(value, bool):
        number = _number(name, value)
        _check_range(name, [number], low, high)
        return number
    if isinstance(value, str) or not isinstance(value, Tensor | Sequence):
        raise InvalidArgumentError(f"{name} is {value!r}: pass a number, or one per sequence")
    try:
        row = torch.as_tensor(value, dtype=torch.float32, device="cpu")
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise InvalidArgumentError(f"{name} is {value!r}: pass a number, or one per sequence") from None
    if row.shape != (batch,):
        raise InvalidArgumentError(f"{name} has shape {list(row.shape)}: pass a number or [{batch}], one per sequence")
    _check_range(name, row.tolist(), low, high)
    return row.to(device)


def top_k_rows(value: int | Sequence[int] | Tensor, batch: int, vocab_size: int, device: torch.device) -> int | Tensor:
    """A scalar, or [B] int64. From ``vocab_size`` on it is off."""
    rows = per_row("top_k", value, batch, torch.device("cpu"), low=0.0)
    numbers = torch.as_tensor(rows)
    if bool((numbers != numbers.round()).any()):
        raise InvalidArgumentError(f"top_k is {value}: pass a whole number, 0 to switch it off")
    limited = numbers.clamp(max=float(vocab_size)).long()
    return limited.to(device) if isinstance(rows, Tensor) else int(limited)


def weight_matrix(
    weights: Weights, names: Sequence[str], beta: PerRow, base_weight: PerRow, batch: int, device: torch.device
) -> Tensor:
    """[B, M] float32: the base's weight, then each reward model's weight over ``beta``."""
    rewards = _reward_weights(weights, names, batch)
    bad = (~torch.isfinite(rewards)).nonzero()
    if len(bad):
        row, column = bad[0].tolist()
        raise InvalidArgumentError(
            f"the weight of {names[column]!r} in row {row} is {float(rewards[row, column])}: weights are finite numbers"
        )
    scale = torch.as_tensor(per_row("beta", beta, batch, torch.device("cpu")))
    if bool((scale <= 0).any()):
        raise InvalidArgumentError(
            f"beta is {float(scale.min()):g}: the reward weights are divided by it, so pass a number above 0"
        )
    base = torch.as_tensor(per_row("base_weight", base_weight, batch, torch.device("cpu")))
    matrix = torch.cat([base.expand(batch)[:, None], rewards / scale.expand(batch)[:, None].double()], dim=1).float()
    over = (~torch.isfinite(matrix)).nonzero()
    if len(over):
        row, column = over[0].tolist()
        name = ("the base", *map(repr, names))[column]
        raise InvalidArgumentError(
            f"the weight of {name} in row {row} is beyond float32 (beta divides reward weights): use a smaller one"
        )
    return matrix.to(device)


def seed_rows(seed: int | Tensor | Sequence[int] | None, batch: int, device: torch.device) -> Tensor:
    """[B] int64: ``row_seeds`` of a scalar, a tensor [B] as it is, a fresh draw from torch's generator for None."""
    if seed is None:
        seed = int(torch.randint(0, 2**63 - 1, ()))
    number = seed.item() if isinstance(seed, Tensor) and seed.dim() == 0 else seed
    if isinstance(number, Integral) and not isinstance(number, bool):
        return genarm_kernels.row_seeds(int(number), batch).to(device)
    if not isinstance(number, Tensor | Sequence) or isinstance(number, str):
        raise InvalidArgumentError(f"seed is {number!r}: pass an integer, or [{batch}] integers, one per sequence")
    seeds = _tensor("seed", number)
    if seeds.shape != (batch,) or seeds.is_floating_point() or seeds.dtype == torch.bool:
        raise InvalidArgumentError(
            f"seed is {seeds.dtype} {list(seeds.shape)}: pass an integer, or [{batch}] int64, one per sequence"
        )
    return seeds.to(device, torch.int64)


def attempt_seeds(seed: int, count: int) -> list[int]:
    """The row seeds of the first ``count`` tries of a row, the first being the row's own."""
    return [seed, *genarm_kernels.row_seeds(seed, count)[1:].tolist()]


def token_bias(
    logit_bias: LogitBias, allowed_tokens: AllowedTokens, batch: int, vocab_size: int, device: torch.device
) -> Tensor | None:
    """None, [V] or [B, V] float32 added to the scores: ``logit_bias``, and −inf outside ``allowed_tokens``."""
    bias = _bias(logit_bias, batch, vocab_size, device)
    if allowed_tokens is None:
        return bias
    ids = _tensor("allowed_tokens", allowed_tokens).cpu()
    if ids.dim() != 1 or not len(ids) or ids.is_floating_point() or ids.dtype == torch.bool:
        raise InvalidArgumentError("allowed_tokens is not a list of token ids: pass at least one id")
    _check_ids("allowed_tokens", ids.tolist(), vocab_size)
    mask = torch.full((vocab_size,), -math.inf, dtype=torch.float32)
    mask[ids.long()] = 0.0
    return mask.to(device) if bias is None else bias + mask.to(device)


def _bias(logit_bias: LogitBias, batch: int, vocab_size: int, device: torch.device) -> Tensor | None:
    if logit_bias is None:
        return None
    if isinstance(logit_bias, Mapping):
        _check_ids("logit_bias", logit_bias, vocab_size)
        exact = torch.zeros(vocab_size, dtype=torch.float64)
        for token, value in logit_bias.items():
            exact[token] = _number(f"logit_bias[{token}]", value)
        bias = exact.float()
    elif isinstance(logit_bias, Tensor) and logit_bias.shape in {(vocab_size,), (batch, vocab_size)}:
        bias = logit_bias.float()
    else:
        shape = list(logit_bias.shape) if isinstance(logit_bias, Tensor) else type(logit_bias).__name__
        raise InvalidArgumentError(
            f"logit_bias is {shape}: pass {{token id: bias}} or a tensor [{vocab_size}] or [{batch}, {vocab_size}]"
        )
    if bool((torch.isnan(bias) | (bias == math.inf)).any()):
        raise InvalidArgumentError("logit_bias holds NaN or +inf: pass finite numbers, or −inf to forbid a token")
    return bias.to(device)


def _tensor(name: str, value: Any) -> Tensor:
    try:
        return torch.as_tensor(value)
    except (TypeError, ValueError, RuntimeError) as error:
        raise InvalidArgumentError(f"{name} cannot be read as a tensor of integers ({error}): correct it") from None


def _number(name: str, value: Any) -> float:
    if isinstance(value, Tensor) and value.numel() == 1:
        value = value.item()
    if isinstance(value, bool) or not isinstance(value, Real):
        raise InvalidArgumentError(f"{name} is {value!r}: pass a number")
    try:
        return float(value)
    except OverflowError:
        raise InvalidArgumentError(f"{name} is larger than any floating-point number: pass a smaller one") from None


def _check_ids(name: str, ids: Iterable[object], vocab_size: int) -> None:
    for token in ids:
        if isinstance(token, bool) or not isinstance(token, int) or not 0 <= token < vocab_size:
            raise InvalidArgumentError(f"{name} names token {token!r}: ids are integers from 0 to {vocab_size - 1}")


def _reward_weights(weights: Weights, names: Sequence[str], batch: int) -> Tensor:
    """[B, K] float64, in the order of ``names``."""
    count = len(names)
    if weights is None:
        return torch.ones(batch, count, dtype=torch.float64)
    if isinstance(weights, Mapping):
        return torch.tensor([_named(weights, names)] * batch, dtype=torch.float64).reshape(batch, count)
    if isinstance(weights, Sequence) and weights and all(isinstance(row, Mapping) for row in weights):
        if len(weights) != batch:
            raise InvalidArgumentError(
                f"weights is a list of {len(weights)} dicts for {batch} sequences: give one each"
            )
        return torch.tensor([_named(row, names) for row in weights], dtype=torch.float64).reshape(batch, count)  # type: ignore[arg-type]
    try:
        table = torch.as_tensor(weights, dtype=torch.float64, device="cpu")
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise InvalidArgumentError(f"weights is {weights!r}: pass a dict, a list of dicts, or numbers [B, K]") from None
    if table.shape == (count,):
        return table.expand(batch, count)
    if table.shape != (batch, count):
        raise InvalidArgumentError(
            f"weights has shape {list(table.shape)}: pass [{batch}, {count}] (sequences × reward models) or [{count}]"
        )
    return table


def _named(weights: Mapping[str, float], names: Sequence[str]) -> list[float]:
    for name in weights:
        if name not in names:
            raise RewardNameError(f"weights names {name!r}, which is not loaded: {known_names(name, names)}")
    return [_number(f"the weight of {name!r}", weights.get(name, 0.0)) for name in names]


def known_names(name: object, names: Sequence[str]) -> str:
    """The end of a message about a reward model that there is not: which one may have been meant, and which there
    are."""
    close = get_close_matches(str(name), names, n=1)
    meant = f"did you mean {close[0]!r}? " if close else ""
    return f"{meant}the reward models are {', '.join(names) or 'none'}"


def _check_range(name: str, values: list[float], low: float, high: float) -> None:
    for value in values:
        if not math.isfinite(value) or not low <= value <= high:
            span = (
                f" from {low:g} to {high:g}" if high < math.inf else f" of at least {low:g}" if low > -math.inf else ""
            )
            raise InvalidArgumentError(f"{name} is {value}: pass a finite number{span}")
