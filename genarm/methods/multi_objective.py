"""Multi-objective GenARM: several autoregressive reward models at once, with weights chosen per request.

    log π_dec(y_t | x, y_<t) = −log Z + log π_base(y_t | x, y_<t) + Σ_i (α_i/β) · log π_r,i(y_t | x, y_<t)

Source: Xu et al., "GenARM: Reward Guided Generation with Autoregressive Reward Model for Test-Time Alignment",
ICLR 2025, section on multi-objective alignment.
"""

from __future__ import annotations

from collections.abc import Mapping
from numbers import Real
from typing import Unpack

from torch import Tensor

from ..decoder import GuidedDecoder
from ..errors import RewardNameError
from ..request.inputs import PromptInput
from ..request.options import Options
from ..request.output import GenerationOutput
from .call import check_options


def generate(
    decoder: GuidedDecoder,
    input_ids: PromptInput,
    attention_mask: Tensor | None = None,
    **options: Unpack[Options],
) -> GenerationOutput:
    """Decode by all of the decoder's reward models, or by those that ``weights`` name as {name: α}.

    Args:
        options: those of ``GuidedDecoder.generate``; ``weights`` are the α_i and default to 1 each, ``beta`` is β.
    """
    check_options("multi_objective", options, [*Options.__annotations__])
    if not decoder.reward_names:
        raise RewardNameError("multi_objective guides by reward models, and the decoder has none: load some")
    weights = options.get("weights")
    if isinstance(weights, Mapping):
        used = {name: weight for name, weight in weights.items() if not isinstance(weight, Real) or weight}
        decoder = decoder.only(*used)
        options["weights"] = used
    return decoder.generate(input_ids, attention_mask, **options)
