"""Sums over a row's ids on CPU tensors: the masses of its groups, and what log-probabilities are made of.

    log Z = (log Σ_v exp(s_v) at temperature 1/T) − Σ_m w_m log Σ_v exp(z_m,v) / T        v over the ids that are left

Sums are a fixed tree of element-wise additions, so a row's bits do not depend on its batch.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genarm_kernels.sampling import cpu_filters as filters
from genarm_kernels.sampling.arguments import GROUP_SIZE, NOTHING_LEFT, Inputs

_LOWEST = torch.finfo(torch.float32).min
_MIN_GROUPS = 64


class Masses(NamedTuple):
    """exp((value − peak) / T) summed over each group; groups padded with empty ones to a power of two."""

    peaks: Tensor  # [R, G]
    sums: Tensor  # [R, G]
    top: Tensor  # [R, 1] the largest peak
    inverse_temperature: Tensor  # [R, 1]

    def log_total(self) -> Tensor:
        """log Σ exp((value − top) / T) -> [R]."""
        total = _tree_sum(self.sums * ((self.peaks - self.top) * self.inverse_temperature).exp())
        return filters.row_log(total)


def group_masses(values: Tensor, inverse_temperature: Tensor) -> Masses:
    """Of values [R, whole groups], −inf where excluded."""
    groups = values.view(values.shape[0], values.shape[1] // GROUP_SIZE, GROUP_SIZE)
    G = groups.shape[1]
    inverse = inverse_temperature[:, None]
    # An empty group has a finite peak, so that nothing below is −inf − (−inf).
    peaks = groups.amax(2).clamp_min_(_LOWEST)
    sums = _tree_sum(((groups - peaks[:, :, None]) * inverse[:, :, None]).exp_())
    missing = max(_MIN_GROUPS, 1 << (G - 1).bit_length()) - G
    peaks, sums = pad(peaks, (0, missing), value=_LOWEST), pad(sums, (0, missing))
    return Masses(peaks, sums, peaks.amax(1, keepdim=True), inverse)


def model_masses(inputs: Inputs, every: bool = False) -> list[Masses | None]:
    """Each model's own at temperature 1; unless ``every`` is asked for, of those that have a share in some row."""
    wanted = (inputs.shares != 0).any(0) | every
    made = []
    for z, want in zip(inputs.logits, wanted.tolist(), strict=True):
        values = filters.pad_groups(z[:, : inputs.vocab_size].to(torch.float32)) if want else None
        made.append(None if values is None else group_masses(values, torch.ones_like(values[:, 0])))
    return made


def model_log_probs(inputs: Inputs, tokens: Tensor, models: list[Masses | None]) -> Tensor:
    """Of one token per row, of models that are all there -> [R, M]."""
    parts = []
    for z, masses in zip(inputs.logits, models, strict=True):
        assert masses is not None
        score = z.gather(1, tokens[:, None]).to(torch.float32)
        parts.append((score - masses.top)[:, 0] - masses.log_total())
    return torch.stack(parts, 1)


def log_normalizers(masses: Masses, models: list[Masses | None], status: Tensor, inputs: Inputs) -> Tensor:
    """log Z of rows whose scores have these masses -> [R]; models of weight 0 in every row may be left out."""
    # In float64, so that a number added to all logits of one model costs nothing here.
    level = masses.top[:, 0].double()
    for m, own in enumerate(models):
        if own is not None:
            weight = inputs.shares[:, m].double()
            normalizer = own.top[:, 0].double() + own.log_total().double()
            level = level - torch.where(weight != 0, weight * normalizer, 0.0)
    value = (level * masses.inverse_temperature[:, 0].double() + masses.log_total().double()).float()
    undefined = torch.where(status == NOTHING_LEFT, -torch.inf, torch.nan)
    return torch.where(status == 0, value, undefined)


def _tree_sum(values: Tensor) -> Tensor:
    """The sum over the last dimension, a power of two, in one fixed order."""
    while (half := values.shape[-1] // 2) > 0:
        values = values[..., :half] + values[..., half:]
    return values[..., 0]
