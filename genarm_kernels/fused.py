"""The kernels' path: which kernels a call runs, in which order."""

from torch import Tensor

from genarm_kernels import combine, draw, filters
from genarm_kernels.arguments import GROUP_SIZE, GuidedSample, Inputs


def guided_sample(inputs: Inputs, return_logprobs: bool) -> GuidedSample:
    """Draw one token a row."""
    if not inputs.has_base_filter and not inputs.has_score_filter:
        partials = combine.reduce_groups(inputs, return_logprobs)
        return draw.draw(inputs, return_logprobs, partials, unfiltered=partials)
    unfiltered, scores = _scores(inputs, return_logprobs)
    threshold, partials = _filter(inputs, scores, unfiltered)
    return draw.draw(inputs, return_logprobs, partials, unfiltered, scores, threshold)


def guided_log_probs(inputs: Inputs) -> Tensor:
    """The distribution tokens are drawn from."""
    partials, scores = _scores(inputs, False)
    threshold = None
    if inputs.has_base_filter or inputs.has_score_filter:
        threshold, partials = _filter(inputs, scores, partials)
    return draw.normalise(inputs, scores, partials, threshold)


def _scores(inputs: Inputs, logprobs: bool) -> tuple[combine.Partials, Tensor]:
    """The partials before any filter, and the scores [B, G·1024] that the base filters leave."""
    base_threshold = None
    if inputs.has_base_filter:
        base_threshold = filters.base_threshold(filters.base_values(inputs), inputs)
    scores = inputs.temperature.new_empty(inputs.batch_size, inputs.groups * GROUP_SIZE)
    return combine.reduce_groups(inputs, logprobs, base_threshold, scores), scores


def _filter(inputs: Inputs, scores: Tensor, partials: combine.Partials) -> tuple[Tensor, combine.Partials]:
    """The rows' thresholds [B], and the partials of what they leave."""
    threshold = filters.score_threshold(scores, inputs)
    return threshold, combine.reduce_filtered_groups(inputs, scores, threshold, partials)
