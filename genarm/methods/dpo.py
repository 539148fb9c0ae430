"""DPO: a policy that was tuned on the preferences beforehand, decoded plainly.

    L = −log σ( β · [ log π(y_w)/π_ref(y_w) − log π(y_l)/π_ref(y_l) ] )

is what it was trained by (``genarm train dpo``); decoding draws from π. It is the comparison that pays at training
time what guided decoding pays at decoding time.

Source: Rafailov et al., "Direct Preference Optimization: Your Language Model is Secretly a Reward Model",
NeurIPS 2023.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from ..decoder import GuidedDecoder
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from .call import check_options
from .guided import TAKEN
from .policies import Policy, policy_decoder

PLAIN = tuple(name for name in TAKEN if name not in ("reward_prompts", "guide_when"))


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    policy: Policy,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode a tuned policy in the base's place.

    Args:
        policy: the tuned model or its LoRA adapter: a path, a loaded model, or the name of a loaded reward model.
        options: those of ``GuidedDecoder.generate`` that plain decoding has.
    """
    check_options("dpo", options, PLAIN)
    return policy_decoder(decoder, policy, "policy").generate(input_ids, attention_mask, **options)
