"""The thresholds of filters.py, which says what each filter keeps, in torch operations for CPU tensors.

Masses are summed as integers, in units of 2⁻⁴² of the row's largest: a sum that is the same in every order does not
depend on the batch, on the device or on how a scan is cut into blocks. 2²⁰ ids at most keep it within 63 bits.
"""

import torch
from torch import Tensor
from torch.nn.functional import pad

from genarm_kernels.sampling.arguments import GROUP_SIZE, MAX_INVERSE_TEMPERATURE, MIN_INVERSE_TEMPERATURE, Inputs

_LOWEST = torch.finfo(torch.float32).min
_UNIT = 2.0**42
# A row is sorted only as far as its top-p nucleus reaches: this far first.
_FIRST_SORT = 256


def base_values(inputs: Inputs) -> Tensor:
    """The base's logits [B, whole groups] float32, −inf beyond V and where they are not finite."""
    base = inputs.logits[0][:, : inputs.vocab_size].to(torch.float32)
    return pad_groups(base.nan_to_num(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf))


def pad_groups(values: Tensor) -> Tensor:
    """[B, V] -> contiguous [B, whole groups], −inf beyond V."""
    return pad(values, (0, -values.shape[1] % GROUP_SIZE), value=-torch.inf).contiguous()


def base_threshold(base: Tensor, inputs: Inputs) -> Tensor:
    """Base logits [B, N] float32 without NaN or +inf -> [B], −inf just where both filters are off."""
    top = base.amax(1).clamp_min(_LOWEST)
    one = torch.ones_like(top)
    threshold = torch.full_like(top, -torch.inf)
    if inputs.base_min_p is not None:
        threshold = _min_p(top, one, inputs.base_min_p)
    if inputs.base_top_p is not None:
        mass = _masses(base, top, one)
        threshold = torch.maximum(threshold, _top_p(base, mass, inputs.base_top_p))
    return torch.where(base_filter_on(inputs), threshold.clamp_min(_LOWEST), -torch.inf)


def base_filter_on(inputs: Inputs) -> Tensor:
    """Whether a row has a base filter -> [B] bool."""
    on = torch.zeros_like(inputs.temperature, dtype=torch.bool)
    if inputs.base_min_p is not None:
        on |= inputs.base_min_p > 0
    if inputs.base_top_p is not None:
        on |= inputs.base_top_p < 1
    return on


def inverse_temperature(inputs: Inputs) -> Tensor:
    """1/T [B], 1 where T is 0."""
    temperature = torch.where(inputs.temperature == 0, 1.0, inputs.temperature)
    return temperature.reciprocal().clamp(MIN_INVERSE_TEMPERATURE, MAX_INVERSE_TEMPERATURE)


def score_threshold(scores: Tensor, inputs: Inputs) -> Tensor:
    """Scores [B, N] float32, −inf where excluded -> [B]."""
    inverse = inverse_temperature(inputs)
    top = scores.amax(1).clamp_min(_LOWEST)
    threshold = torch.full_like(top, -torch.inf)
    if inputs.top_k is not None:
        threshold = _top_k(scores, inputs.top_k, inputs.vocab_size)
    if inputs.top_p is not None:
        mass = _masses(scores, top, inverse)
        mass = torch.where(scores >= threshold[:, None], mass, 0)
        threshold = torch.maximum(threshold, _top_p(scores, mass, inputs.top_p))
    if inputs.min_p is not None:
        threshold = torch.maximum(threshold, _min_p(top, inverse, inputs.min_p))
    return threshold


def row_log(values: Tensor) -> Tensor:
    """log of [B] values, computed on whole vectors: on a CPU the last few elements of a tensor take other code."""
    return values[:, None].expand(-1, 64).contiguous().log()[:, 0]


def _min_p(top: Tensor, inverse: Tensor, min_p: Tensor) -> Tensor:
    # min_p 0 gives −inf, which is off.
    return top + row_log(min_p) / inverse


def _top_k(scores: Tensor, top_k: Tensor, vocab_size: int) -> Tensor:
    off = (top_k <= 0) | (top_k >= vocab_size)
    rank = torch.where(off, 1, top_k) - 1
    leading = scores.topk(int(rank.max()) + 1, dim=1).values
    return torch.where(off, -torch.inf, leading.gather(1, rank[:, None])[:, 0])


def _masses(values: Tensor, top: Tensor, inverse: Tensor) -> Tensor:
    """exp((value − top) / T) [B, N] as int64, in units of 2⁻⁴²."""
    return (((values - top[:, None]) * inverse[:, None]).exp() * _UNIT).to(torch.int64)


def _top_p(values: Tensor, mass: Tensor, top_p: Tensor) -> Tensor:
    """The smallest value whose strictly larger mass is < top_p of the total; the largest value always stays."""
    off = top_p >= 1
    reach = mass.sum(1).double() * torch.where(off, 0.0, top_p).double()
    N = values.shape[1]
    length = min(_FIRST_SORT, N)
    while True:
        leading, order = values.topk(length, dim=1) if length < N else values.sort(dim=1, descending=True)
        leading_mass = mass.gather(1, order)
        above = leading_mass.cumsum(1) - leading_mass
        inside = (above.double() < reach[:, None]).sum(1)
        if length == N or bool((inside < length).all()):
            break
        length = N
    last = leading.gather(1, (inside.clamp_min(1) - 1)[:, None])[:, 0]
    return torch.where(off, -torch.inf, last)
