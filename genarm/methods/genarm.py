"""GenARM: every token is drawn from the base's distribution times that of an autoregressive reward model.

    log π_dec(y_t | x, y_<t) = −log Z + log π_base(y_t | x, y_<t) + (1/β) · log π_r(y_t | x, y_<t)

This is what ``GuidedDecoder.generate`` does; here it stands beside the other methods, with one reward model.

Source: Xu et al., "GenARM: Reward Guided Generation with Autoregressive Reward Model for Test-Time Alignment",
ICLR 2025. 1/β = 1 there for HH-RLHF.
"""

from __future__ import annotations

from typing import Unpack

from torch import Tensor

from ..decoder import GuidedDecoder
from ..errors import RewardNameError
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from .guided import guided


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    *,
    reward: str | None = None,
    weight: float = 1.0,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by GenARM.

    Args:
        reward: which of the decoder's reward models; it may be left out where there is one.
        weight: 1/β.
        options: those of ``GuidedDecoder.generate`` but weights, beta and base_weight.
    """
    return guided(
        "genarm", decoder, input_ids, attention_mask, options, {chosen_reward("genarm", decoder, reward): weight}
    )


def chosen_reward(method: str, decoder: GuidedDecoder, reward: str | None) -> str:
    """The reward model that a method guided by one takes: the one named, or the decoder's only one.

    Raises:
        RewardNameError: none is named, and there is not one.
    """
    if reward is not None:
        return reward
    if len(decoder.reward_names) != 1:
        raise RewardNameError(
            f"{method} guides by one reward model, and the decoder has {', '.join(decoder.reward_names) or 'none'}: "
            "name it (reward=…)"
        )
    return decoder.reward_names[0]
