"""Proxy tuning: the difference that tuning made to a small model, added to a large one.

    log p(y_t) = −log Z + log p_base(y_t) + α · [ log p_expert(y_t) − log p_anti-expert(y_t) ]

The expert is the small model after tuning, the anti-expert the same before it.

Source: Liu et al., "Tuning Language Models by Proxy", COLM 2024. α = 1 there.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from ..decoder import GuidedDecoder
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from .guided import check_apart, guided


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    expert: str = "expert",
    anti_expert: str = "anti_expert",
    alpha: float = 1.0,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by proxy tuning.

    Args:
        expert, anti_expert: which of the decoder's reward models they are.
        alpha: the weight of their difference.
        options: those of ``GuidedDecoder.generate`` but weights, beta and base_weight.
    """
    check_apart("proxy_tuning", [expert], anti_expert)
    weights = {expert: alpha, anti_expert: -alpha}
    return guided("proxy_tuning", decoder, input_ids, attention_mask, options, weights)
