"""The CPU path: the kernels' algorithm, with the same noise words, in torch operations; combination and race in C where
those kernels run (native/library.py).

A row's result is bitwise the same alone and in any batch. Torch gives other last bits to the final few elements of a
tensor than to whole vectors, and cuts tensors of more than 32,768 elements into one chunk per thread. So rows are
padded with −inf to whole groups, a block of rows stays within one chunk or is a single row, and sums are a fixed tree
of element-wise additions (cpu_masses.py).
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from genarm_kernels import noise
from genarm_kernels.native import sampling as native
from genarm_kernels.sampling import cpu_filters as filters
from genarm_kernels.sampling.arguments import GROUP_SIZE, NOTHING_LEFT, GuidedSample, Inputs
from genarm_kernels.sampling.cpu_masses import Masses, group_masses, log_normalizers, model_log_probs, model_totals

_BLOCK_ELEMENTS = 32768
# Without filters torch does nothing with them that rounds: a block may be as large as a cache holds.
_C_BLOCK_ELEMENTS = 2**20


class _Combined(NamedTuple):
    scores: Tensor  # [R, N] float32, N whole groups; −inf where excluded
    kept: Tensor  # the same after the filters
    inverse_temperature: Tensor  # [R], 1 where the temperature is 0
    status: Tensor  # [R] int32


def guided_sample(inputs: Inputs, return_logprobs: bool, return_normalizers: bool = False) -> GuidedSample:
    """Draw one token per row."""
    parts = [_sample_block(block, return_logprobs, return_normalizers) for block in _blocks(inputs)]
    if len(parts) == 1:
        return parts[0]
    joined: list[Any] = [None if field[0] is None else torch.cat(field) for field in zip(*parts, strict=True)]
    return GuidedSample(*joined)


def guided_log_probs(inputs: Inputs, return_normalizers: bool = False) -> tuple[Tensor, Tensor | None]:
    """The distribution tokens are drawn from, and where they are asked for log_normalizers."""
    log_probs, found = zip(*(_log_probs_block(block, return_normalizers) for block in _blocks(inputs)), strict=True)
    return torch.cat(log_probs), torch.cat(found) if return_normalizers else None


def _blocks(inputs: Inputs) -> list[Inputs]:
    filtered = inputs.has_base_filter or inputs.has_score_filter
    in_c = native.library_for(inputs) is not None and not filtered
    rows = max(1, (_C_BLOCK_ELEMENTS if in_c else _BLOCK_ELEMENTS) // (inputs.groups * GROUP_SIZE))
    B = inputs.batch_size
    if rows >= B:
        return [inputs]
    return [inputs.rows(start, min(start + rows, B)) for start in range(0, B, rows)]


def _sample_block(inputs: Inputs, return_logprobs: bool, return_normalizers: bool) -> GuidedSample:
    combined = _combine(inputs, return_logprobs, return_normalizers)
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
    sample = GuidedSample(tokens, None, None, status)
    if not return_logprobs and not return_normalizers:
        return sample
    inverse = combined.inverse_temperature
    if masses is None or inputs.greedy is None:
        masses = group_masses(_unfiltered_where_greedy(combined, inputs), inverse, native.library_for(inputs))
    totals, models = masses.totals(), model_totals(inputs, every=return_logprobs)
    if return_logprobs:
        score = combined.scores.gather(1, tokens[:, None])[:, 0]
        logprobs = (score - totals.top) * inverse - totals.log_total
        model_logprobs = model_log_probs(inputs, tokens, models)
        if any_bad:
            logprobs = torch.where(bad, torch.nan, logprobs)
            model_logprobs = torch.where(bad[:, None], torch.nan, model_logprobs)
        sample = sample._replace(logprobs=logprobs, model_logprobs=model_logprobs)
    if return_normalizers:
        sample = sample._replace(log_normalizers=log_normalizers(totals, models, inverse, status, inputs))
    return sample


def _log_probs_block(inputs: Inputs, return_normalizers: bool) -> tuple[Tensor, Tensor | None]:
    combined = _combine(inputs, normalizers=return_normalizers)
    kernels, inverse = native.library_for(inputs), combined.inverse_temperature
    totals = group_masses(combined.kept, inverse, kernels).totals()
    log_probs = (combined.kept - totals.top[:, None]) * inverse[:, None] - totals.log_total[:, None]
    if inputs.greedy is not False:
        best = torch.full_like(log_probs, -torch.inf).scatter_(1, combined.kept.argmax(1, keepdim=True), 0.0)
        log_probs = torch.where(inputs.temperature[:, None] == 0, best, log_probs)
    log_probs = log_probs[:, : inputs.vocab_size]
    log_probs = torch.where(combined.status[:, None] != 0, torch.nan, log_probs)
    if not return_normalizers:
        return log_probs, None
    if inputs.greedy is not False:
        totals = group_masses(_unfiltered_where_greedy(combined, inputs), inverse, kernels).totals()
    return log_probs, log_normalizers(totals, model_totals(inputs), inverse, combined.status, inputs)


def _combine(inputs: Inputs, logprobs: bool = False, normalizers: bool = False) -> _Combined:
    """s = bias + Σ w_m z_m by the rules on masks, weights of 0 and bad values, then the filters."""
    examined = _examined(inputs, logprobs, normalizers)
    kernels = native.library_for(inputs)
    if kernels is not None:
        scores, status = native.combine(kernels, inputs, examined)
    else:
        scores, status = _weighted_sum(inputs, examined)
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


def _examined(inputs: Inputs, logprobs: bool, normalizers: bool) -> Tensor:
    """[R, M]: whether NaN and +inf among a model's logits are the row's fault."""
    examined = torch.ones_like(inputs.weights, dtype=torch.bool) if logprobs else inputs.weights != 0
    if normalizers:
        examined |= inputs.shares != 0
    if inputs.has_base_filter:
        examined[:, 0] |= filters.base_filter_on(inputs)
    return examined


def _weighted_sum(inputs: Inputs, examined: Tensor) -> tuple[Tensor, Tensor]:
    """-> scores [R, V], still with NaN and infinities, and status [R] int32."""
    V = inputs.vocab_size
    used = inputs.weights != 0
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


def _draw(combined: _Combined, inputs: Inputs) -> tuple[Tensor, Masses]:
    """One token per row, of those that were kept -> [R] int64, and the groups' masses."""
    kernels = native.library_for(inputs)
    if kernels is not None:
        tokens, peaks, sums = native.race(kernels, combined.kept, combined.inverse_temperature, inputs)
        return tokens, Masses(peaks, sums, combined.inverse_temperature, kernels)
    masses = group_masses(combined.kept, combined.inverse_temperature)
    return _race(combined.kept, masses, inputs), masses


def _race(kept: Tensor, masses: Masses, inputs: Inputs) -> Tensor:
    """Two exponential races: a group by its mass, then a token of it -> [R] int64."""
    G = masses.peaks.shape[1]
    inverse, top = masses.inverse_temperature[:, None], masses.peaks.amax(1, keepdim=True)
    ids = torch.arange(G)[None, :]
    gumbel = _exponentials(inputs, ids, noise.GROUP.value).log()
    group = ((masses.peaks - top) * inverse + masses.sums.log() - gumbel).argmax(1, keepdim=True)
    ids = group * GROUP_SIZE + torch.arange(GROUP_SIZE)
    gumbel = _exponentials(inputs, ids, noise.TOKEN.value).log()
    value = (kept.gather(1, ids) - masses.peaks.gather(1, group)) * inverse - gumbel
    return ids.gather(1, value.argmax(1, keepdim=True))[:, 0]


def _exponentials(inputs: Inputs, ids: Tensor, purpose: int) -> Tensor:
    return noise.exponential(noise.noise_words(inputs.seeds, inputs.positions, ids, purpose))


def _unfiltered_where_greedy(combined: _Combined, inputs: Inputs) -> Tensor:
    return torch.where(inputs.temperature[:, None] == 0, combined.scores, combined.kept)


def _fallback(inputs: Inputs) -> Tensor:
    """The argmax of the base's finite logits, 0 where there is none."""
    return filters.base_values(inputs).argmax(1)
