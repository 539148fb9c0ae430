"""Decoding-time realignment: how strongly a model is aligned, chosen after its alignment.

    log p(y_t) = −log Z + λ · log p_aligned(y_t) + (1 − λ) · log p_SFT(y_t)

The base is the SFT model that the alignment began with. λ = 1 is the aligned model, λ > 1 goes beyond it; it stands for
an alignment whose KL coefficient was divided by λ.

Source: Liu et al., "Decoding-time Realignment of Language Models", ICML 2024, which varies λ and names no default.
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
    strength: float,
    aligned: str = "aligned",
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by realignment.

    Args:
        strength: λ.
        aligned: which of the decoder's reward models is the base after its alignment.
        options: those of ``GuidedDecoder.generate`` but weights, beta and base_weight.
    """
    return guided("dera", decoder, input_ids, attention_mask, options, {aligned: strength}, 1.0 - strength)
