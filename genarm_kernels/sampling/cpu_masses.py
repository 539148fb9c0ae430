"""Sums over a row's ids on CPU tensors: the masses of its groups, and what log-probabilities are made of.

    log Z = (log Σ_v exp(s_v) at temperature 1/T) − Σ_m w_m log Σ_v exp(z_m,v) / T        v over the ids that are left

Sums are a fixed tree of element-wise additions, or C's in one order, so a row's bits do not depend on its batch.
"""

import ctypes
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genarm_kernels.native import sampling as native
from genarm_kernels.sampling import cpu_filters as filters
from genarm_kernels.sampling.arguments import GROUP_SIZE, NOTHING_LEFT, Inputs

_LOWEST = torch.finfo(torch.float32).min
_MIN_GROUPS = 64


class Masses(NamedTuple):
    """exp((value − peak) / T) summed over each group; in torch, groups padded with empty ones to a power of two."""

    peaks: Tensor  # [R, G]
    sums: Tensor  # [R, G]
    inverse_temperature: Tensor  # [R]
    kernels: ctypes.CDLL | None = None  # what they were made by, where that was not torch

    def totals(self) -> "Totals":
        if self.kernels is not None:
            return Totals(*native.row_totals(self.kernels, self.peaks, self.sums, self.inverse_temperature))
        top = self.peaks.amax(1)
        total = _tree_sum(self.sums * ((self.peaks - top[:, None]) * self.inverse_temperature[:, None]).exp())
        return Totals(top, filters.row_log(total))


class Totals(NamedTuple):
    """A row's largest value, and log Σ exp((value − top) / T)."""

    top: Tensor  # [R]
    log_total: Tensor  # [R]


def group_masses(values: Tensor, inverse_temperature: Tensor, kernels: ctypes.CDLL | None = None) -> Masses:
    """Of values [R, whole groups], −inf where excluded."""
    if kernels is not None:
        return Masses(*native.group_masses(kernels, values, inverse_temperature), inverse_temperature, kernels)
    groups = values.view(values.shape[0], values.shape[1] // GROUP_SIZE, GROUP_SIZE)
    G = groups.shape[1]
    # An empty group has a finite peak, so that nothing below is −inf − (−inf).
    peaks = groups.amax(2).clamp_min_(_LOWEST)
    sums = _tree_sum(((groups - peaks[:, :, None]) * inverse_temperature[:, None, None]).exp_())
    missing = max(_MIN_GROUPS, 1 << (G - 1).bit_length()) - G
    return Masses(pad(peaks, (0, missing), value=_LOWEST), pad(sums, (0, missing)), inverse_temperature)


def model_totals(inputs: Inputs, every: bool = False) -> list[Totals | None]:
    """Each model's own at temperature 1; unless ``every`` is asked for, of those that have a share in some row."""
    wanted = (inputs.shares != 0).any(0) | every
    ones = torch.ones_like(inputs.temperature)
    kernels = native.library_for(inputs)
    if kernels is not None:
        peaks, sums = (x.flatten(0, 1) for x in native.model_masses(kernels, inputs, wanted))
        tops, logs = native.row_totals(kernels, peaks, sums, ones.repeat(len(inputs.logits)))
        by_model = (x.view(len(wanted), -1).unbind() for x in (tops, logs))
        return [Totals(*own) if want else None for *own, want in zip(*by_model, wanted.tolist(), strict=True)]
    made: list[Totals | None] = []
    for z, want in zip(inputs.logits, wanted.tolist(), strict=True):
        values = filters.pad_groups(z[:, : inputs.vocab_size].to(torch.float32)) if want else None
        made.append(None if values is None else group_masses(values, ones).totals())
    return made


def model_log_probs(inputs: Inputs, tokens: Tensor, models: list[Totals | None]) -> Tensor:
    """Of one token per row, of models that are all there -> [R, M]."""
    parts = []
    for z, own in zip(inputs.logits, models, strict=True):
        assert own is not None
        parts.append(z.gather(1, tokens[:, None])[:, 0].to(torch.float32) - own.top - own.log_total)
    return torch.stack(parts, 1)


def log_normalizers(
    totals: Totals, models: list[Totals | None], inverse_temperature: Tensor, status: Tensor, inputs: Inputs
) -> Tensor:
    """log Z of rows whose scores have these totals -> [R]; models of weight 0 in every row may be left out."""
    # In float64, so that a number added to all logits of one model costs nothing here.
    level = totals.top.double()
    for m, own in enumerate(models):
        if own is not None:
            weight = inputs.shares[:, m].double()
            level = level - torch.where(weight != 0, weight * (own.top.double() + own.log_total.double()), 0.0)
    value = (level * inverse_temperature.double() + totals.log_total.double()).float()
    undefined = torch.where(status == NOTHING_LEFT, -torch.inf, torch.nan)
    return torch.where(status == 0, value, undefined)


def _tree_sum(values: Tensor) -> Tensor:
    """The sum over the last dimension, a power of two, in one fixed order."""
    while (half := values.shape[-1] // 2) > 0:
        values = values[..., :half] + values[..., half:]
    return values[..., 0]
