"""Contrastive decoding: what a large model prefers more than a small one does, of what the large one finds plausible.

    score(y_t) = log p_expert(y_t) − c · log p_amateur(y_t)      where p_expert(y_t) ≥ α · max_v p_expert(v), else −∞

The base is the expert.

Source: Li et al., "Contrastive Decoding: Open-ended Text Generation as Optimization", ACL 2023. c = 1 and α = 0.1
there, with a beam search; here tokens are drawn, or taken greedily at temperature 0.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from ..decoder import GuidedDecoder
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from .guided import guided


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    amateur: str = "amateur",
    strength: float = 1.0,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by contrast.

    Args:
        amateur: which of the decoder's reward models it is.
        strength: c.
        options: those of ``GuidedDecoder.generate`` but weights, beta and base_weight; ``base_min_p``, which is α, is
            0.1 unless it is given.
    """
    options.setdefault("base_min_p", 0.1)
    return guided("contrastive", decoder, input_ids, attention_mask, options, {amateur: -strength})
