"""DExperts: an expert's and an anti-expert's difference added to a base, over the base's nucleus.

    log p(y_t) = −log Z + log p_base(y_t) + α · [ log p_expert(y_t) − log p_anti-expert(y_t) ]

for the tokens that make up the largest 0.9 of the base's probability, and 0 for all others.

Source: Liu et al., "DExperts: Decoding-Time Controlled Text Generation with Experts and Anti-Experts", ACL 2021.
α = 2 and a base top-p of 0.9 there.
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
    alpha: float = 2.0,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by DExperts.

    Args:
        expert, anti_expert: which of the decoder's reward models they are.
        alpha: the weight of their difference.
        options: those of ``GuidedDecoder.generate`` but weights, beta and base_weight; ``base_top_p`` is 0.9 unless it
            is given.
    """
    options.setdefault("base_top_p", 0.9)
    check_apart("dexperts", [expert], anti_expert)
    weights = {expert: alpha, anti_expert: -alpha}
    return guided("dexperts", decoder, input_ids, attention_mask, options, weights)
