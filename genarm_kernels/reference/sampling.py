"""Oracles in float64, one per operation: short, plain and slow. With the ops they share the noise words alone."""

from collections.abc import Sequence
from functools import cached_property
from typing import Any

import torch
from torch import Tensor

from genarm_kernels import noise
from genarm_kernels.sampling.arguments import GROUP_SIZE, NOTHING_LEFT, GuidedSample, Inputs, PerRow, prepare
from genarm_kernels.sampling.values import settle


def guided_sample(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]],
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    base_min_p: PerRow = 0.0,
    base_top_p: PerRow = 1.0,
    bias: Tensor | None = None,
    seed: int | Tensor = 0,
    position: int | Tensor = 0,
    return_logprobs: bool = False,
    vocab_size: int | None = None,
    return_normalizers: bool = False,
) -> GuidedSample:
    """The oracle of genarm_kernels.guided_sample, one row after the other."""
    inputs = prepare(
        logits, weights, temperature, top_k, top_p, min_p, base_min_p, base_top_p, bias, seed, position, vocab_size
    )
    return sample(inputs, return_logprobs, return_normalizers)


def sample(inputs: Inputs, return_logprobs: bool, return_normalizers: bool = False) -> GuidedSample:
    """The oracle of a call that was checked already."""
    inputs = settle(inputs)
    rows = [_Row(inputs, b, return_logprobs, return_normalizers) for b in range(inputs.batch_size)]
    M, like = len(inputs.logits), inputs.weights
    return GuidedSample(
        torch.tensor([row.token for row in rows], dtype=torch.int64, device=like.device),
        like.new_tensor([row.logprob() for row in rows]) if return_logprobs else None,
        like.new_tensor([row.model_logprobs() for row in rows]).view(-1, M) if return_logprobs else None,
        torch.tensor([row.status for row in rows], dtype=torch.int32, device=like.device),
        like.new_tensor([row.log_normalizer() for row in rows]) if return_normalizers else None,
    )


def guided_log_probs(
    logits: Sequence[Tensor],
    weights: Tensor | Sequence[float] | Sequence[Sequence[float]],
    temperature: PerRow = 1.0,
    top_k: int | Tensor = 0,
    top_p: PerRow = 1.0,
    min_p: PerRow = 0.0,
    base_min_p: PerRow = 0.0,
    base_top_p: PerRow = 1.0,
    bias: Tensor | None = None,
    vocab_size: int | None = None,
    return_normalizers: bool = False,
) -> Any:
    """The oracle of genarm_kernels.guided_log_probs."""
    inputs = settle(
        prepare(logits, weights, temperature, top_k, top_p, min_p, base_min_p, base_top_p, bias, 0, 0, vocab_size)
    )
    rows = [_Row(inputs, b, normalizers=return_normalizers) for b in range(inputs.batch_size)]
    log_probs = [row.log_probs() for row in rows]
    made = torch.stack(log_probs).float() if rows else inputs.weights.new_empty(0, inputs.vocab_size)
    if not return_normalizers:
        return made
    return made, inputs.weights.new_tensor([row.log_normalizer() for row in rows])


class _Row:
    """Everything about one row, in float64: z [M, V], scores [V], kept [V] (the scores after the filters)."""

    def __init__(self, inputs: Inputs, b: int, examine_all: bool = False, normalizers: bool = False) -> None:
        V = inputs.vocab_size
        self.z = torch.stack([z[b, :V].double() for z in inputs.logits])
        self.weights = [float(w) for w in inputs.weights[b]]
        self.shares = [float(w) for w in inputs.shares[b]]
        self.temperature = float(inputs.temperature[b])
        self.seed, self.position = inputs.seeds[b : b + 1], inputs.positions[b : b + 1]
        base_min_p, base_top_p = _value(inputs.base_min_p, b, 0.0), _value(inputs.base_top_p, b, 1.0)

        self.scores = torch.zeros_like(self.z[0]) if inputs.bias is None else inputs.bias[b].double()
        self.status = 0
        for m, (z, weight) in enumerate(zip(self.z, self.weights, strict=True)):
            if weight != 0:
                self.scores = self.scores + weight * z
            base_filtered = m == 0 and (base_min_p > 0 or base_top_p < 1)
            examined = weight != 0 or examine_all or base_filtered or (normalizers and self.shares[m] != 0)
            if examined and bool((z.isnan() | (z == torch.inf)).any()):
                self.status |= 1 << m
        # What does not fit float32 is no score either.
        allowed = self.scores.float().isfinite() & (self.z[0] != -torch.inf)
        self.scores = torch.where(allowed, self.scores, -torch.inf)

        self.kept = self.scores
        if base_min_p > 0 or base_top_p < 1:
            keep = _keep(_finite(self.z[0]), min_p=base_min_p, top_p=base_top_p)
            self.kept = torch.where(keep, self.scores, -torch.inf)
        if self.temperature > 0:
            keep = _keep(
                self.kept / self.temperature,
                top_k=int(_value(inputs.top_k, b, 0)),
                top_p=_value(inputs.top_p, b, 1.0),
                min_p=_value(inputs.min_p, b, 0.0),
            )
            self.kept = torch.where(keep, self.kept, -torch.inf)
        if not bool(self.kept.isfinite().any()):
            self.status |= NOTHING_LEFT

    @cached_property
    def token(self) -> int:
        if self.status:
            return int(_finite(self.z[0]).argmax())
        if self.temperature == 0:
            return int(self.kept.argmax())
        # Less the largest first, or large scores swallow the noise.
        scaled = (self.kept - self.kept.max()) / self.temperature
        groups = torch.split(scaled, GROUP_SIZE)
        ids = torch.arange(len(groups), device=scaled.device)
        mass = torch.stack([group.logsumexp(0) for group in groups])
        start = GROUP_SIZE * int((mass - self._noise(ids, noise.GROUP.value)).argmax())
        ids = torch.arange(len(scaled), device=scaled.device)[start : start + GROUP_SIZE]
        return start + int((scaled[ids] - self._noise(ids, noise.TOKEN.value)).argmax())

    def _noise(self, ids: Tensor, purpose: int) -> Tensor:
        """log of the exponentials."""
        words = noise.noise_words(self.seed, self.position, ids[None, :], purpose)[0]
        return torch.log(-torch.log1p(-(words.double() + 0.5) * 2.0**-32))

    def log_probs(self) -> Tensor:
        """[V] log of what the token is drawn from: at temperature 0 all on the largest."""
        if self.status:
            return torch.full_like(self.kept, torch.nan)
        if self.temperature == 0:
            return torch.full_like(self.kept, -torch.inf).index_fill_(0, self.kept.argmax(), 0.0)
        return (self.kept / self.temperature).log_softmax(0)

    def logprob(self) -> float:
        if self.status == 0 and self.temperature == 0:
            return float(self.scores.log_softmax(0)[self.token])
        return float(self.log_probs()[self.token])

    def log_normalizer(self) -> float:
        """log of the mass that is left of the product of the models' distributions."""
        if self.status:
            return -torch.inf if self.status == NOTHING_LEFT else torch.nan
        temperature = self.temperature or 1.0
        scores = self.kept if self.temperature else self.scores
        own = sum(share * z.logsumexp(0) for share, z in zip(self.shares, self.z, strict=True) if share != 0)
        return float((scores / temperature).logsumexp(0) - own / temperature)

    def model_logprobs(self) -> list[float]:
        if self.status:
            return [torch.nan] * len(self.z)
        return [float(z.log_softmax(0)[self.token]) for z in self.z]


def _keep(values: Tensor, top_k: int = 0, top_p: float = 1.0, min_p: float = 0.0) -> Tensor:
    """Which of the values [V] stay: top-k, then top-p on the renormalised rest, then min-p. Ties stay."""
    keep = values > -torch.inf
    if not bool(keep.any()):
        return keep
    if 0 < top_k < len(values):
        keep &= values >= values.sort(descending=True).values[top_k - 1]
    probs = torch.where(keep, values, -torch.inf).softmax(0)
    if top_p < 1:
        distinct, which = torch.unique(values, return_inverse=True)
        mass = torch.zeros_like(distinct).index_add_(0, which, probs)
        at_least = mass.flip(0).cumsum(0).flip(0)
        above = torch.cat([at_least[1:], at_least.new_zeros(1)])
        keep &= (above[which] < top_p) | (values == values.max())
    return keep & (probs >= min_p * probs.max())


def _finite(z: Tensor) -> Tensor:
    return torch.where(z.isfinite(), z, -torch.inf)


def _value(values: Tensor | None, b: int, default: float) -> float:
    return default if values is None else float(values[b])
