"""The CPU path: the kernels' algorithm, with the same noise words, in torch operations; combination and race in C where
those kernels run (native/library.py).

A row's result is bitwise the same alone and in any batch. Torch gives other last bits to the final few elements of a
tensor than to whole vectors, and cuts tensors of more than 32,768 elements into one chunk per thread. So rows are
padded with −inf to whole groups, a block of rows stays within one chunk or is a single row, and sums are a fixed tree
of element-wise additions.
"""

from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import pad

from genarm_kernels import noise
from genarm_kernels.native import sampling as native
from genarm_kernels.sampling import cpu_filters as filters
from genarm_kernels.sampling.arguments import GROUP_SIZE, NOTHING_LEFT, GuidedSample, Inputs

_BLOCK_ELEMENTS = 32768
_LOWEST = torch.finfo(torch.float32).min
_MIN_GROUPS = 64


class _Combined(NamedTuple):
    scores: Tensor  # [R, N] float32, N whole groups; −inf where excluded
    kept: Tensor  # the same after the filters
    inverse_temperature: Tensor  # [R], 1 where the temperature is 0
    status: Tensor  # [R] int32


class _Masses(NamedTuple):
    """exp((value − peak) / T) summed over each group; groups padded with empty ones to a power of two."""

    peaks: Tensor  # [R, G]
    sums: Tensor  # [R, G]
    top: Tensor  # [R, 1] the largest peak
    inverse_temperature: Tensor  # [R, 1]

    def log_total(self) -> Tensor:
        """log Σ exp((value − top) / T) -> [R]."""
        total = _tree_sum(self.sums * ((self.peaks - self.top) * self.inverse_temperature).exp())
        return filters.row_log(total)


def guided_sample(inputs: Inputs, return_logprobs: bool) -> GuidedSample:
    """Draw one token per row."""
    parts = [_sample_block(block, return_logprobs) for block in _blocks(inputs)]
    if len(parts) == 1:
        return parts[0]
    tokens, logprobs, model_logprobs, status = zip(*parts, strict=True)
    if not return_logprobs:
        return GuidedSample(torch.cat(tokens), None, None, torch.cat(status))
    return GuidedSample(torch.cat(tokens), torch.cat(logprobs), torch.cat(model_logprobs), torch.cat(status))


def guided_log_probs(inputs: Inputs) -> Tensor:
    """The distribution tokens are drawn from."""
    return torch.cat([_log_probs_block(block) for block in _blocks(inputs)])


def _blocks(inputs: Inputs) -> list[Inputs]:
    rows = max(1, _BLOCK_ELEMENTS // (inputs.groups * GROUP_SIZE))
    B = inputs.batch_size
    if rows >= B:
        return [inputs]
    return [inputs.rows(start, min(start + rows, B)) for start in range(0, B, rows)]


def _sample_block(inputs: Inputs, return_logprobs: bool) -> GuidedSample:
    combined = _combine(inputs, return_logprobs)
    masses = None
    if inputs.greedy:
        tokens = combined.kept.argmax(1)
    else:
        tokens, masses = _draw(combined, inputs)
        if inputs.greedy is None:
            tokens = torch.where(inputs.temperature == 0, combined.kept.argmax(1), tokens)
    status = combined.status
    bad = status != 0
    any_bad = bool(bad.any())
    if any_bad:
        tokens = torch.where(bad, _fallback(inputs), tokens)
    if not return_logprobs:
        return GuidedSample(tokens, None, None, status)
    if masses is None or inputs.greedy is None:
        masses = _group_masses(_unfiltered_where_greedy(combined, inputs), combined.inverse_temperature)
    score = combined.scores.gather(1, tokens[:, None])
    logprobs = ((score - masses.top) * masses.inverse_temperature)[:, 0] - masses.log_total()
    model_logprobs = torch.stack([_model_logprobs(z, tokens, inputs.vocab_size) for z in inputs.logits], 1)
    if any_bad:
        logprobs = torch.where(bad, torch.nan, logprobs)
        model_logprobs = torch.where(bad[:, None], torch.nan, model_logprobs)
    return GuidedSample(tokens, logprobs, model_logprobs, status)


def _log_probs_block(inputs: Inputs) -> Tensor:
    combined = _combine(inputs, examine_all=False)
    masses = _group_masses(combined.kept, combined.inverse_temperature)
    log_probs = (combined.kept - masses.top) * masses.inverse_temperature - masses.log_total()[:, None]
    if inputs.greedy is not False:
        best = torch.full_like(log_probs, -torch.inf).scatter_(1, combined.kept.argmax(1, keepdim=True), 0.0)
        log_probs = torch.where(inputs.temperature[:, None] == 0, best, log_probs)
    log_probs = log_probs[:, : inputs.vocab_size]
    return torch.where(combined.status[:, None] != 0, torch.nan, log_probs)


def _combine(inputs: Inputs, examine_all: bool) -> _Combined:
    """s = bias + Σ w_m z_m by the rules on masks, weights of 0 and bad values, then the filters."""
    used = inputs.weights != 0
    kernels = native.library_for(inputs)
    if kernels is not None:
        scores, status = native.combine(kernels, inputs, _examined(inputs, used, examine_all))
    else:
        scores, status = _weighted_sum(inputs, used, examine_all)
        scores = filters.pad_groups(scores.nan_to_num_(nan=-torch.inf, posinf=-torch.inf, neginf=-torch.inf))
    inverse = filters.inverse_temperature(inputs)
    kept = scores
    if inputs.has_base_filter:
        base = filters.base_values(inputs)
        kept = torch.where(base >= filters.base_threshold(base, inputs)[:, None], kept, -torch.inf)
    if inputs.has_score_filter:
        threshold = filters.score_threshold(kept, inputs)
        kept = torch.where(kept >= threshold[:, None], kept, -torch.inf)
    nothing = kept.amax(1) == -torch.inf
    return _Combined(scores, kept, inverse, status + nothing.to(torch.int32) * NOTHING_LEFT)


def _examined(inputs: Inputs, used: Tensor, examine_all: bool) -> Tensor:
    """[R, M]: whether NaN and +inf among a model's logits are the row's fault."""
    examined = torch.ones_like(used) if examine_all else used
    if inputs.has_base_filter:
        examined = examined.clone()
        examined[:, 0] |= filters.base_filter_on(inputs)
    return examined


def _weighted_sum(inputs: Inputs, used: Tensor, examine_all: bool) -> tuple[Tensor, Tensor]:
    """-> scores [R, V], still with NaN and infinities, and status [R] int32."""
    V = inputs.vocab_size
    examined = _examined(inputs, used, examine_all)
    all_used = bool(used.all())
    scores: Tensor | None = None
    status = torch.zeros(inputs.batch_size, dtype=torch.int32)
    for m, z in enumerate(inputs.logits):
        if not all_used and not bool(examined[:, m].any()) and m:
            continue
        z = z[:, :V]
        # NaN passes through amax and compares false.
        status |= (~(z.amax(1) < torch.inf) & examined[:, m]).to(torch.int32) << m
        part = z.to(torch.float32) * inputs.weights[:, m, None]
        if not all_used:
            part = torch.where(used[:, m, None], part, 0.0)
        if m == 0 and not all_used:
            part = part.masked_fill_(z == -torch.inf, -torch.inf)
        scores = part if scores is None else scores.add_(part)
    assert scores is not None
    return scores if inputs.bias is None else scores.add_(inputs.bias), status


def _draw(combined: _Combined, inputs: Inputs) -> tuple[Tensor, _Masses | None]:
    """One token per row, of those that were kept -> [R] int64, and the groups' masses where they were made as well."""
    kernels = native.library_for(inputs)
    if kernels is not None:
        return native.race(kernels, combined.kept, combined.inverse_temperature, inputs), None
    masses = _group_masses(combined.kept, combined.inverse_temperature)
    return _race(combined.kept, masses, inputs), masses


def _race(kept: Tensor, masses: _Masses, inputs: Inputs) -> Tensor:
    """Two exponential races: a group by its mass, then a token of it -> [R] int64."""
    G = masses.peaks.shape[1]
    inverse = masses.inverse_temperature
    ids = torch.arange(G)[None, :]
    gumbel = _exponentials(inputs, ids, noise.GROUP.value).log()
    group = ((masses.peaks - masses.top) * inverse + masses.sums.log() - gumbel).argmax(1, keepdim=True)
    ids = group * GROUP_SIZE + torch.arange(GROUP_SIZE)
    gumbel = _exponentials(inputs, ids, noise.TOKEN.value).log()
    value = (kept.gather(1, ids) - masses.peaks.gather(1, group)) * inverse - gumbel
    return ids.gather(1, value.argmax(1, keepdim=True))[:, 0]


def _exponentials(inputs: Inputs, ids: Tensor, purpose: int) -> Tensor:
    return noise.exponential(noise.noise_words(inputs.seeds, inputs.positions, ids, purpose))


def _group_masses(values: Tensor, inverse_temperature: Tensor) -> _Masses:
    groups = values.view(values.shape[0], values.shape[1] // GROUP_SIZE, GROUP_SIZE)
    G = groups.shape[1]
    inverse = inverse_temperature[:, None]
    # An empty group has a finite peak, so that nothing below is −inf − (−inf).
    peaks = groups.amax(2).clamp_min_(_LOWEST)
    sums = _tree_sum(((groups - peaks[:, :, None]) * inverse[:, :, None]).exp_())
    missing = max(_MIN_GROUPS, 1 << (G - 1).bit_length()) - G
    peaks, sums = pad(peaks, (0, missing), value=_LOWEST), pad(sums, (0, missing))
    return _Masses(peaks, sums, peaks.amax(1, keepdim=True), inverse)


def _tree_sum(values: Tensor) -> Tensor:
    """The sum over the last dimension, a power of two, in one fixed order."""
    while (half := values.shape[-1] // 2) > 0:
        values = values[..., :half] + values[..., half:]
    return values[..., 0]


def _unfiltered_where_greedy(combined: _Combined, inputs: Inputs) -> Tensor:
    return torch.where(inputs.temperature[:, None] == 0, combined.scores, combined.kept)


def _model_logprobs(z: Tensor, tokens: Tensor, V: int) -> Tensor:
    padded = filters.pad_groups(z[:, :V].to(torch.float32))
    masses = _group_masses(padded, padded.new_ones(padded.shape[0]))
    return (padded.gather(1, tokens[:, None]) - masses.top)[:, 0] - masses.log_total()


def _fallback(inputs: Inputs) -> Tensor:
    """The argmax of the base's finite logits, 0 where there is none."""
    return filters.base_values(inputs).argmax(1)
