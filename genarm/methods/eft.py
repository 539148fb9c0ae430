"""Emulated fine-tuning: what tuning at one scale changed, applied to a model of another scale.

    log p(y_t) = −log Z + log p_base(y_t) + Σ_i w_i · [ log p_tuned,i(y_t) − log p_reference(y_t) ]

"Up-scaling" is a large base with a small model's tuning. Several tuned models have one reference.

Source: Mitchell et al., "An Emulator for Fine-Tuning Large Language Models using Small Language Models", ICLR 2024.
One tuned model with w = 1 there.
"""

from __future__ import annotations

from collections.abc import Mapping
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
    tuned: str | Mapping[str, float] = "tuned",
    reference: str = "reference",
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by emulated fine-tuning.

    Args:
        tuned: which of the decoder's reward models was tuned, with w = 1; or {name: w} for several.
        reference: which one it was before.
        options: those of ``GuidedDecoder.generate`` but weights, beta and base_weight.
    """
    weights = {tuned: 1.0} if isinstance(tuned, str) else dict(tuned)
    check_apart("eft", weights, reference)
    return guided("eft", decoder, input_ids, attention_mask, options, {**weights, reference: -sum(weights.values())})
