"""guided_sample and guided_log_probs."""

from collections.abc import Sequence

import torch
from torch import Tensor

from genarm_kernels import eager
from genarm_kernels.arguments import GuidedSample, PerRow, prepare


@torch.no_grad()
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
) -> GuidedSample:
    """Draw one token a row."""
    inputs = prepare(
        logits, weights, temperature, top_k, top_p, min_p, base_min_p, base_top_p, bias, seed, position, vocab_size
    )
    return eager.guided_sample(inputs, return_logprobs)


@torch.no_grad()
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
) -> Tensor:
    """The distribution guided_sample draws from."""
    inputs = prepare(logits, weights, temperature, top_k, top_p, min_p, base_min_p, base_top_p, bias, 0, 0, vocab_size)
    return eager.guided_log_probs(inputs)
