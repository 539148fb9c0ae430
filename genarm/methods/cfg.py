"""Classifier-free guidance: the same model with the prompt, less the same model without it.

    log p(y_t) = −log Z + γ · log p(y_t | x, y_<t) + (1 − γ) · log p(y_t | x', y_<t)

x' is the prompt's last token, or a negative prompt.

Source: Sanchez et al., "Stay on Topic with Classifier-Free Guidance", ICML 2024. γ = 1.5 there.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Unpack

from torch import Tensor

from ..decoder import GuidedDecoder
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from .call import check_options
from .guided import TAKEN, drawn_from

NAME = "unconditional"


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    gamma: float = 1.5,
    negative_prompt: PromptInput | None = None,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode with classifier-free guidance. Both are the base; reward models take no part.

    Args:
        gamma: γ; 1 is plain decoding.
        negative_prompt: one for all rows, or one per prompt, in any form that prompts have; default each prompt's last
            token.
        options: those of ``GuidedDecoder.generate`` but weights, beta, base_weight and reward_prompts.
    """
    check_options("cfg", options, [name for name in TAKEN if name != "reward_prompts"])
    base = decoder.models[0]
    part = decoder.part(("cfg",), lambda: [base, replace(base, name=NAME)])
    given = decoder.only().prepare(input_ids, attention_mask, max_new_tokens=0).streams[0].host
    if negative_prompt is None:
        others: PromptInput = [row[-1:] if len(row) else row.new_zeros(1) for row in given]
    else:
        read = decoder.only().prepare(negative_prompt, max_new_tokens=0).streams[0].host
        others = read * len(given) if len(read) == 1 else read
    settings = {"weights": {NAME: 1.0 - gamma}, "base_weight": gamma, "reward_prompts": {NAME: others}}
    return drawn_from(part, input_ids, attention_mask, options, settings)
