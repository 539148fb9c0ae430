"""The kernels' path: which kernels a call runs, in which order."""

from torch import Tensor

from genarm_kernels.sampling import combine, distribution, draw, filters
from genarm_kernels.sampling.arguments import GuidedSample, Inputs
from genarm_kernels.sampling.groups import Partials


def guided_sample(inputs: Inputs, return_logprobs: bool, return_normalizers: bool = False) -> GuidedSample:
    """Draw one token per row."""
    made = _partials(inputs, return_logprobs, return_normalizers)
    return draw.draw(inputs, return_logprobs, return_normalizers, *made)


def guided_log_probs(inputs: Inputs, return_normalizers: bool = False) -> tuple[Tensor, Tensor | None]:
    """The distribution tokens are drawn from, and where they are asked for log_normalizers."""
    return distribution.normalise(inputs, return_normalizers, *_partials(inputs, False, return_normalizers))


def _partials(inputs: Inputs, logprobs: bool, normalizers: bool) -> tuple[Partials, draw.Thresholds]:
    """The rows' groups after all filters."""
    base = filters.base_threshold(inputs) if inputs.has_base_filter else None
    if inputs.greedy or not inputs.has_score_filter:
        return combine.reduce_groups(inputs, logprobs, normalizers, base), draw.Thresholds(base, None)
    scores = filters.new_scores(inputs)
    partials = combine.reduce_groups(inputs, logprobs, normalizers, base, scores)
    threshold = filters.score_threshold(inputs, partials, scores)
    filters.regroup(inputs, partials, scores, threshold)
    return partials, draw.Thresholds(base, threshold)
